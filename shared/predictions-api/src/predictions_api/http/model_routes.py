"""The routes of models and their versions. All are read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Request

from predictions_api.errors import Problem
from predictions_api.http.catalogue_routes import page_body
from predictions_api.http.requests import base_url, read_body
from predictions_api.run.representation import rfc3339
from predictions_api.store.database import predictions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from predictions_api.run.catalogue import Catalogue, Model, Version
    from predictions_api.store.database import Database

SEARCH_LIMIT: Final = 4096  # bytes


def models_router(catalogue: Catalogue, database: Database) -> APIRouter:
    router = APIRouter(tags=["models"])

    async def model_bodies(models: Iterable[Model], request: Request) -> list[dict[str, Any]]:
        return [
            _model_body(
                model,
                await newest_version(model),
                await run_count(model),
                await first_example(model, request),
                catalogue.worker_status(model),
                base_url(request),
            )
            for model in models
        ]

    async def run_count(model: Model) -> int:
        query = sa.select(sa.func.count()).select_from(predictions).where(predictions.c.model == model.full_name)
        return int((await database.rows(query))[0][0])

    async def newest_version(model: Model) -> Version | None:
        try:
            return await catalogue.version(model, model.versions[0])
        except Problem:  # no schema, as its Cog server is unavailable: list the model without a version
            return None

    async def first_example(model: Model, request: Request) -> dict[str, Any] | None:
        try:
            return next(iter(await catalogue.examples.list(model.full_name, base_url(request))), None)
        except Problem:  # its files cannot be read: list the model without an example
            return None

    @router.get("/models")
    async def list_models(
        request: Request,
        sort_by: Literal["model_created_at", "latest_version_created_at"] = "latest_version_created_at",
        sort_direction: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """List all models on one page. Both values of `sort_by` give the same order."""
        models = await model_bodies(catalogue.models, request)
        return page_body(sorted(models, key=lambda model: str(model["created_at"]), reverse=sort_direction == "desc"))

    @router.api_route("/models", methods=["QUERY"], include_in_schema=False)  # QUERY is not in OpenAPI 3.1
    async def search_models(request: Request) -> dict[str, Any]:
        """List the models whose name and description contain all words of the body."""
        # The JavaScript client sends the text in quotes.
        words = (await read_body(request, SEARCH_LIMIT)).decode("utf-8", "replace").strip().strip('"').lower().split()
        matches = [
            model
            for model in catalogue.models
            if all(word in f"{model.full_name} {model.description}".lower() for word in words)
        ]
        return page_body(await model_bodies(matches, request))

    @router.get("/models/{owner}/{name}")
    async def get_model(owner: str, name: str, request: Request) -> dict[str, Any]:
        """Return one model with its newest version."""
        return (await model_bodies([catalogue.model(owner, name)], request))[0]

    @router.get("/models/{owner}/{name}/versions")
    async def list_versions(owner: str, name: str) -> dict[str, Any]:
        """List a model's versions, newest first."""
        model = catalogue.model(owner, name)
        return page_body([_version_body(await catalogue.version(model, version)) for version in model.versions])

    @router.get("/models/{owner}/{name}/versions/{version_id}")
    async def get_version(owner: str, name: str, version_id: str) -> dict[str, Any]:
        """Return one version. Its schema describes the inputs."""
        return _version_body(await catalogue.version(catalogue.model(owner, name), version_id))

    return router


def _version_body(version: Version) -> dict[str, Any]:
    return {
        "id": version.id,
        "created_at": rfc3339(version.created_at),
        "cog_version": version.cog_version,
        "openapi_schema": version.openapi_schema,
    }


def _model_body(
    model: Model,
    newest_version: Version | None,
    run_count: int,
    example: dict[str, Any] | None,
    worker_status: str,
    base_url: str,
) -> dict[str, Any]:
    return {
        "url": f"{base_url}/v1/models/{model.full_name}",
        "owner": model.owner,
        "name": model.name,
        "description": model.description or None,
        "visibility": "public",
        "is_official": False,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "cover_image_url": None,
        "run_count": run_count,
        "default_example": example,
        "worker_status": worker_status,  # not at Replicate
        "created_at": None if newest_version is None else rfc3339(newest_version.created_at),
        "latest_version": None if newest_version is None else _version_body(newest_version),
    }
