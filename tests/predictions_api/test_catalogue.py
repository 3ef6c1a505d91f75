"""The catalogue: names of models and versions, and the routes that list them."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from predictions_api.errors import Problem
from predictions_api.http import problems
from predictions_api.http.model_routes import models_router
from predictions_api.run.addresses import Resolver
from predictions_api.run.catalogue import Catalogue
from predictions_api.run.external import create_workers
from predictions_api.settings import ModelSettings, Settings
from predictions_api.store.database import Database, predictions, sqlite_url
from replicate_contract import check_answer
from tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# The version id of the documented requests.
DOCUMENTED = "beecf59c4aee8d81bf04f0381033dfa10dc16e845b4ae00d281e2fa377e48a9f"
OURS = "0" * 63 + "1"
NOWHERE = "http://127.0.0.1:9"  # the discard port, where nothing listens


@pytest.fixture
def models(tmp_path: Path) -> tuple[ModelSettings, ...]:
    schema = Path(shutil.copy(ROOT / "animate-diff" / "openapi.json", tmp_path))
    return (
        ModelSettings("lucataco/animate-diff", (OURS, DOCUMENTED), "A clip", schema=schema, urls=(NOWHERE,)),
        ModelSettings("someone/unreachable", ("a" * 64,), "No Cog server", urls=(NOWHERE,)),
    )


def run_with_catalogue(models: tuple[ModelSettings, ...], work: Callable[[Catalogue], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with httpx.AsyncClient() as http:
            return await work(Catalogue(models, create_workers(Settings(models), http, Resolver())))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("reference", "version"),
    [
        (DOCUMENTED, DOCUMENTED),
        (f"lucataco/animate-diff:{DOCUMENTED}", DOCUMENTED),
        (f"lucataco/animate-diff:{OURS}", OURS),
        ("lucataco/animate-diff", OURS),
    ],
)
def test_a_version_is_found_by_its_id_by_model_and_id_or_by_its_model(
    models: tuple[ModelSettings, ...], reference: str, version: str
) -> None:
    result = run_with_catalogue(models, lambda catalogue: catalogue.find(reference))
    assert (result.id, result.model.full_name) == (version, "lucataco/animate-diff")


@pytest.mark.parametrize(
    "reference",
    [
        "",
        ":",
        "lucataco/animate-diff:",
        "lucataco/animate-diff:latest",
        f"someone/unreachable:{DOCUMENTED}",
        f"lucataco/other:{DOCUMENTED}",
        DOCUMENTED[:8],
        DOCUMENTED.upper(),
        f"{DOCUMENTED}:{DOCUMENTED}",
        "animate-diff",
    ],
)
def test_another_version_is_refused_with_replicates_error(models: tuple[ModelSettings, ...], reference: str) -> None:
    with pytest.raises(Problem) as caught:
        run_with_catalogue(models, lambda catalogue: catalogue.find(reference))
    assert caught.value.body() == {  # recorded from Replicate
        "title": "Invalid version or not permitted",
        "detail": "The specified version does not exist (or perhaps you don't have permission to use it?)",
        "status": 422,
    }


def test_a_model_without_a_schema_is_503_with_retry_after(models: tuple[ModelSettings, ...]) -> None:
    with pytest.raises(Problem) as caught:
        run_with_catalogue(models, lambda catalogue: catalogue.find("someone/unreachable"))
    assert caught.value.status == 503
    assert "Retry-After" in caught.value.headers


@pytest.mark.parametrize(
    "schema", ["{", "[]", "{}", '{"components": {"schemas": {"Input": {"default": NaN}, "Output": {}}}}', None]
)
def test_a_model_with_an_unusable_schema_is_503_and_the_log_says_why(
    models: tuple[ModelSettings, ...], schema: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert models[0].schema is not None
    models[0].schema.unlink() if schema is None else models[0].schema.write_text(schema)
    with pytest.raises(Problem) as caught:
        run_with_catalogue(models, lambda catalogue: catalogue.find(OURS))
    assert caught.value.status == 503
    assert str(models[0].schema) not in caught.value.detail
    assert "the schema of lucataco/animate-diff cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("output", "streams", "files"),
    [
        ({"type": "string", "format": "uri"}, False, True),
        ({"type": "array", "items": {"type": "string", "format": "uri"}}, False, True),
        ({"type": "string"}, False, False),
        ({"type": "array", "items": {"type": "string", "format": "uri"}, "x-cog-array-type": "iterator"}, True, True),
        ({"type": "array", "items": {"type": "string"}, "x-cog-array-type": "iterator"}, True, False),
    ],
)
def test_the_schema_says_whether_outputs_come_one_by_one_and_are_files(
    models: tuple[ModelSettings, ...], output: dict[str, Any], streams: bool, files: bool
) -> None:
    assert models[0].schema is not None
    models[0].schema.write_text(json.dumps({"components": {"schemas": {"Input": {}, "Output": output}}}))
    version = run_with_catalogue(models, lambda catalogue: catalogue.find(OURS))
    assert (version.streams, version.streams_files) == (streams, files)


def test_only_strings_that_the_schema_declares_as_files_are_files(models: tuple[ModelSettings, ...]) -> None:
    file = {"type": "string", "format": "uri"}
    output = {"type": "object", "properties": {"clip": file, "more": {"$ref": "#/components/schemas/More"}}}
    more = {"anyOf": [{"type": "array", "items": file}, {"type": "null"}]}
    assert models[0].schema is not None
    models[0].schema.write_text(json.dumps({"components": {"schemas": {"Input": {}, "Output": output, "More": more}}}))
    version = run_with_catalogue(models, lambda catalogue: catalogue.find(OURS))
    assert version.files_in({"clip": "data:,1", "text": "data:,2", "more": ["data:,3"]}) == {"data:,1", "data:,3"}
    assert version.files_in({"more": None}) == set()


class Routes:
    """The routes of models, with a database and without a socket."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def answers(self, *requests: tuple[str, str, bytes]) -> list[httpx.Response]:
        async def run() -> list[httpx.Response]:
            database = Database(sqlite_url(self.settings.data / "predictions.sqlite"))
            await database.open()
            app = FastAPI()
            app.state.settings = self.settings
            problems.install_handlers(app)
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here:1") as client:
                workers = create_workers(self.settings, client, Resolver())
                app.include_router(models_router(Catalogue(self.settings.models, workers), database))
                try:
                    return [await client.request(method, path, content=body) for method, path, body in requests]
                finally:
                    await database.close()

        return asyncio.run(run())

    def get(self, path: str) -> Any:
        (answer,) = self.answers(("GET", path, b""))
        assert answer.status_code == 200, answer.text
        check_answer("GET", path, 200, answer.headers["content-type"], answer.content)
        return answer.json()


@pytest.fixture
def routes(models: tuple[ModelSettings, ...], tmp_path: Path) -> Routes:
    return Routes(Settings(models=models, data=tmp_path))


def test_models_and_versions_are_listed_newest_first_and_read_by_name(routes: Routes) -> None:
    path = "/models/lucataco/animate-diff"
    models, model, versions = routes.get("/models"), routes.get(path), routes.get(f"{path}/versions")
    version = routes.get(f"{path}/versions/{DOCUMENTED}")
    assert [entry["id"] for entry in versions["results"]] == [OURS, DOCUMENTED]
    assert [entry["created_at"] for entry in versions["results"]] == sorted(
        (entry["created_at"] for entry in versions["results"]), reverse=True
    )
    assert version == versions["results"][1]
    assert model["latest_version"] == versions["results"][0]
    assert model in models["results"]
    assert model["url"] == "http://here:1/v1/models/lucataco/animate-diff"


def test_run_count_is_the_number_of_predictions_and_is_read_from_an_index(routes: Routes) -> None:
    async def run() -> list[str]:
        database = Database(sqlite_url(routes.settings.data / "predictions.sqlite"))
        await database.open()
        row = {"version": "", "input": {}, "status": "starting", "callback_key": "", "created_at": 0}
        names = ["lucataco/animate-diff", "someone/unreachable", "lucataco/animate-diff"]
        rows = [{**row, "id": str(number), "model": model} for number, model in enumerate(names)]
        await database.run(lambda connection: connection.execute(sa.insert(predictions), rows))
        query = "EXPLAIN QUERY PLAN SELECT count(*) FROM predictions WHERE model = 'a/b'"
        plan = await database.read(lambda connection: [str(row) for row in connection.exec_driver_sql(query)])
        await database.close()
        return plan

    assert "SEARCH" in "".join(asyncio.run(run()))
    assert routes.get("/models/lucataco/animate-diff")["run_count"] == 2
    assert {model["name"]: model["run_count"] for model in routes.get("/models")["results"]} == {
        "animate-diff": 2,
        "unreachable": 1,
    }


def test_a_model_without_a_schema_is_listed_without_a_version(routes: Routes) -> None:
    has_version = {model["name"]: model["latest_version"] is not None for model in routes.get("/models")["results"]}
    assert has_version == {"animate-diff": True, "unreachable": False}


def test_models_are_searched_with_bare_words_and_with_quotes(routes: Routes) -> None:
    # replicate-python sends bare words, replicate-javascript sends quotes.
    bare, quoted, none = routes.answers(
        ("QUERY", "/models", b"CLIP diff"), ("QUERY", "/models", b'"animate"'), ("QUERY", "/models", b"walk")
    )
    assert [[model["name"] for model in answer.json()["results"]] for answer in (bare, quoted, none)] == [
        ["animate-diff"],
        ["animate-diff"],
        [],
    ]


def test_a_search_of_more_than_4_kib_is_413(routes: Routes) -> None:
    (answer,) = routes.answers(("QUERY", "/models", b"a" * 5000))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path",
    ["o/n", "lucataco/other", "o/n/versions", f"lucataco/animate-diff/versions/{'a' * 64}", f"o/n/versions/{OURS}"],
)
def test_an_unknown_model_or_version_is_404(routes: Routes, path: str) -> None:
    (answer,) = routes.answers(("GET", f"/models/{path}", b""))
    assert answer.status_code == 404
    assert answer.json() == {"detail": "The requested resource could not be found.", "status": 404}  # recorded
