"""The routes of models, their versions, READMEs and examples; and of lists that are empty here. All are read-only."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from predictions_api.errors import Problem
from predictions_api.http.markdown import render_markdown
from predictions_api.http.requests import base_url, read_body, service_of
from predictions_api.run.representation import rfc3339
from predictions_api.run.upkeep import count_predictions

if TYPE_CHECKING:
    from predictions_api.run.catalogue import Catalogue, Version
    from predictions_api.settings import ModelSettings

SEARCH_LIMIT: Final = 4096  # bytes

router = APIRouter(tags=["models"])


@router.get("/models")
async def list_models(
    request: Request,
    sort_by: Literal["model_created_at", "latest_version_created_at"] = "latest_version_created_at",
    sort_direction: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """List all models on one page. Both values of `sort_by` give the same order."""
    models = [await _model_body(model, request) for model in _catalogue(request).models]
    return _page_body(sorted(models, key=lambda model: str(model["created_at"]), reverse=sort_direction == "desc"))


@router.api_route("/models", methods=["QUERY"], include_in_schema=False)  # QUERY is not in OpenAPI 3.1
async def search_models(request: Request) -> dict[str, Any]:
    """List the models whose name and description contain all words of the body."""
    # The JavaScript client sends the text in quotes.
    words = (await read_body(request, SEARCH_LIMIT)).decode("utf-8", "replace").strip().strip('"').lower().split()
    models = [
        await _model_body(model, request)
        for model in _catalogue(request).models
        if all(word in f"{model.name} {model.description}".lower() for word in words)
    ]
    return _page_body(models)


@router.get("/models/{owner}/{name}")
async def get_model(owner: str, name: str, request: Request) -> dict[str, Any]:
    """Return one model with its newest version."""
    return await _model_body(_catalogue(request).model(owner, name), request)


@router.get("/models/{owner}/{name}/versions")
async def list_versions(owner: str, name: str, request: Request) -> dict[str, Any]:
    """List a model's versions, newest first."""
    catalogue = _catalogue(request)
    model = catalogue.model(owner, name)
    return _page_body([_version_body(await catalogue.version(model, version)) for version in model.versions])


@router.get("/models/{owner}/{name}/versions/{version_id}")
async def get_version(owner: str, name: str, version_id: str, request: Request) -> dict[str, Any]:
    """Return one version. Its schema describes the inputs."""
    catalogue = _catalogue(request)
    return _version_body(await catalogue.version(catalogue.model(owner, name), version_id))


@router.get(
    "/models/{owner}/{name}/readme",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def get_readme(owner: str, name: str, request: Request) -> Response:
    """Return the README of a model: in Markdown, or as sanitized HTML for `Accept: text/html`."""
    catalogue = _catalogue(request)
    model = catalogue.model(owner, name)
    text = await catalogue.examples.readme(model)
    headers = {"vary": "Accept"}
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse(text, headers=headers)
    urls = await catalogue.examples.file_urls(model, base_url(request))
    links = {f"examples/{quote(file)}": url for file, url in urls.items()}
    html = await asyncio.to_thread(render_markdown, text, links)
    return HTMLResponse(html, headers={**headers, "content-security-policy": "default-src 'none'"})


@router.get("/models/{owner}/{name}/examples")
async def list_examples(owner: str, name: str, request: Request) -> dict[str, Any]:
    """List the examples of a model on one page."""
    catalogue = _catalogue(request)
    return _page_body(await catalogue.examples.list(catalogue.model(owner, name), base_url(request)))


@router.get("/models/{owner}/{name}/examples/{file}", response_class=FileResponse)
async def get_example_file(owner: str, name: str, file: str, request: Request) -> FileResponse:
    """Return a file of an example."""
    catalogue = _catalogue(request)
    path = await catalogue.examples.file(catalogue.model(owner, name), file)
    return FileResponse(path, headers={"x-content-type-options": "nosniff"})


@router.get("/collections")
@router.get("/deployments")
@router.get("/trainings")
async def list_nothing() -> dict[str, Any]:
    """Return an empty page: this server has no collections, deployments and trainings."""
    return _page_body([])


def _catalogue(request: Request) -> Catalogue:
    return service_of(request).catalogue


def _page_body(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a list that is complete on one page."""
    return {"next": None, "previous": None, "results": results}


def _version_body(version: Version) -> dict[str, Any]:
    return {
        "id": version.id,
        "created_at": rfc3339(version.created_at),
        "cog_version": version.cog_version,
        "openapi_schema": version.openapi_schema,
    }


async def _model_body(model: ModelSettings, request: Request) -> dict[str, Any]:
    service, base = service_of(request), base_url(request)
    newest_version, examples = None, []
    with suppress(Problem):  # without its Cog server, a model may have no schema, and then no version
        newest_version = _version_body(await service.catalogue.version(model, model.versions[0]))
    with suppress(Problem):  # its files cannot be read: no example now
        examples = await service.catalogue.examples.list(model, base)
    owner, _, name = model.name.partition("/")
    return {
        "url": f"{base}/v1/models/{model.name}",
        "owner": owner,
        "name": name,
        "description": model.description or None,
        "visibility": "public",
        "is_official": False,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "cover_image_url": None,
        "run_count": await count_predictions(service.database, model.name),
        "default_example": next(iter(examples), None),
        "worker_status": service.workers[model.name].status(),  # not at Replicate
        "created_at": None if newest_version is None else newest_version["created_at"],
        "latest_version": newest_version,
    }
