"""The routes of what Replicate's website shows of a model: README and examples; and lists that are empty here.

All are read-only. The files of examples need no token.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from predictions_api.http.markdown import render_markdown
from predictions_api.http.requests import base_url

if TYPE_CHECKING:
    from predictions_api.run.catalogue import Catalogue


def catalogue_router(catalogue: Catalogue) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get(
        "/models/{owner}/{name}/readme",
        response_class=PlainTextResponse,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    async def get_readme(owner: str, name: str, request: Request) -> Response:
        """Return the README of a model: in Markdown, or as sanitized HTML for `Accept: text/html`."""
        full_name = catalogue.model(owner, name).full_name
        text = await catalogue.examples.readme(full_name)
        headers = {"vary": "Accept"}
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(text, headers=headers)
        urls = await catalogue.examples.file_urls(full_name, base_url(request))
        links = {f"examples/{quote(file)}": url for file, url in urls.items()}
        html = await asyncio.to_thread(render_markdown, text, links)
        return HTMLResponse(html, headers={**headers, "content-security-policy": "default-src 'none'"})

    @router.get("/models/{owner}/{name}/examples")
    async def list_examples(owner: str, name: str, request: Request) -> dict[str, Any]:
        """List the examples of a model on one page."""
        full_name = catalogue.model(owner, name).full_name
        return page_body(await catalogue.examples.list(full_name, base_url(request)))

    @router.get("/models/{owner}/{name}/examples/{file}", response_class=FileResponse)
    async def get_example_file(owner: str, name: str, file: str) -> FileResponse:
        """Return a file of an example."""
        path = await catalogue.examples.file(catalogue.model(owner, name).full_name, file)
        return FileResponse(path, headers={"x-content-type-options": "nosniff"})

    @router.get("/collections")
    @router.get("/deployments")
    @router.get("/trainings")
    async def list_nothing() -> dict[str, Any]:
        """Return an empty page: this server has no collections, deployments and trainings."""
        return page_body([])

    return router


def page_body(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a list that is complete on one page."""
    return {"next": None, "previous": None, "results": results}
