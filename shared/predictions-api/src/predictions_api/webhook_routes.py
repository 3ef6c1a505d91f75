"""The route about webhooks: the secret that their signatures are checked with."""

from __future__ import annotations

from fastapi import APIRouter, Request

router = APIRouter(tags=["webhooks"])


@router.get("/webhooks/default/secret")
async def default_secret(request: Request) -> dict[str, str]:
    """Return the secret that all webhooks of this server are signed with."""
    return {"key": request.app.state.service.webhooks.secret}
