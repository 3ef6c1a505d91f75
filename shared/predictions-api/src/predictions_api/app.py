"""The ASGI application: the routes and the service behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from predictions_api.http import (
    file_routes,
    model_routes,
    playground,
    prediction_routes,
    problems,
    service_routes,
    streams,
)
from predictions_api.http.gate import Gate
from predictions_api.http.tokens import Tokens

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from predictions_api.run.service import Service

DESCRIPTION = (
    "Replicate's HTTP API for predictions, served from this machine. Replicate's clients work with it: set "
    "REPLICATE_BASE_URL for Python, or baseUrl for JavaScript."
)


def create_app(service: Service) -> ASGIApp:
    """Return the application of a service, which the caller opens and closes. Raises BadConfiguration."""
    settings = service.settings
    tokens = Tokens(settings)
    # No pages of FastAPI, as they load scripts from a CDN.
    app = FastAPI(
        title="Predictions",
        description=DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        servers=[{"url": f"{(settings.public_url or '').rstrip('/')}/v1"}],
    )
    app.state.service = service
    for router in (
        streams.router,  # before files, as /files/stream-KEY also matches /files/{file_id}
        prediction_routes.router,
        model_routes.router,
        file_routes.router,
        service_routes.webhook_router,
        service_routes.router,
        playground.router,
        prediction_routes.callbacks,
    ):
        _add_head(router)
        app.include_router(router)
    problems.install_handlers(app)
    _add_tokens_to_document(app)
    return Gate(app, tokens=tokens, public_url=settings.public_url, metrics=service.metrics)


def _add_head(router: APIRouter) -> None:
    """Serve HEAD wherever a router serves GET, as RFC 9110 requires. FastAPI does not."""
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    paths_with_head = {
        route.path for route in routes if "HEAD" in (route.methods or ())
    }  # if this process had an app before
    for route in routes:
        if "GET" in (route.methods or ()) and route.path not in paths_with_head:
            router.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)


def _add_tokens_to_document(app: FastAPI) -> None:
    default_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        document = default_openapi()
        document.setdefault("components", {})["securitySchemes"] = {"bearerAuth": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"bearerAuth": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
