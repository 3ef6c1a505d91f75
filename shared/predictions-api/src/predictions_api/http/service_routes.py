"""The routes of the server itself: webhook secret, account, hardware, health, metrics and the documentation page."""

from __future__ import annotations

import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from predictions_api.errors import unavailable
from predictions_api.http.page import render_page
from predictions_api.http.requests import service_of

webhook_router = APIRouter(tags=["webhooks"])
router = APIRouter(tags=["server"])


@webhook_router.get("/webhooks/default/secret")
async def default_secret(request: Request) -> dict[str, str]:
    """Return the secret that signs all webhooks of this server."""
    return {"key": service_of(request).webhooks.secret}


@router.get("/account")
async def account() -> dict[str, str]:
    """Return the only account."""
    return {"type": "user", "username": "local", "name": "Local"}


@router.get("/hardware")
async def hardware() -> list[dict[str, str]]:
    """Return the only hardware: that of the Cog servers."""
    return [{"sku": "local", "name": "This server's own"}]


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return metrics in Prometheus's text format."""
    return Response(await service_of(request).metrics_text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """Return ok if the server can take predictions. 503 if it has no model, or its database does not work."""
    if not service_of(request).settings.models:
        raise unavailable("No model is configured")
    await service_of(request).database.rows(sa.select(sa.literal(1)))
    return {"status": "ok"}


@router.get("/docs", include_in_schema=False)
async def page(request: Request) -> HTMLResponse:
    """Return the documentation page, which loads nothing from other servers."""
    headers = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse(render_page(request.app.openapi()), headers=headers)
