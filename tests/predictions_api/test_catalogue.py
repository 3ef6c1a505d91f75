"""The catalogue: names of models and versions, and the routes that list them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_in_process import ApiInProcess
from predictions_api.errors import Problem
from predictions_api.run.addresses import Resolver
from predictions_api.run.catalogue import Catalogue, Version
from predictions_api.run.external import create_workers
from predictions_api.settings import ModelSettings, Settings
from replicate_contract import check_response
from tree import ROOT

# The version id of the documented requests.
DOCUMENTED = "beecf59c4aee8d81bf04f0381033dfa10dc16e845b4ae00d281e2fa377e48a9f"
OURS = "0" * 63 + "1"
NOWHERE = "http://127.0.0.1:9"  # the discard port, where nothing listens


def make_models(directory: Path) -> tuple[ModelSettings, ...]:
    schema = Path(shutil.copy(ROOT / "animate-diff" / "openapi.json", directory))
    return (
        ModelSettings("lucataco/animate-diff", (OURS, DOCUMENTED), "A clip", schema=schema, urls=(NOWHERE,)),
        ModelSettings("someone/unreachable", ("a" * 64,), "No Cog server", urls=(NOWHERE,)),
    )


@pytest.fixture
def models(tmp_path: Path) -> tuple[ModelSettings, ...]:
    return make_models(tmp_path)


def find(models: tuple[ModelSettings, ...], reference: str) -> Version:
    async def run() -> Version:
        async with httpx.AsyncClient() as http:
            return await Catalogue(models, create_workers(Settings(models), http, Resolver())).find(reference)

    return asyncio.run(run())


def find_with(models: tuple[ModelSettings, ...], output: Any, **schemas: Any) -> Version:
    """Return the version of a model with this schema of its output, and with others."""
    assert models[0].schema is not None
    document = {"components": {"schemas": {"Input": {}, "Output": output, **schemas}}}
    models[0].schema.write_text(json.dumps(document))
    return find(models, OURS)


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
    result = find(models, reference)
    assert (result.id, result.model) == (version, "lucataco/animate-diff")


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
        find(models, reference)
    assert caught.value.body() == {  # recorded from Replicate
        "title": "Invalid version or not permitted",
        "detail": "The specified version does not exist (or perhaps you don't have permission to use it?)",
        "status": 422,
    }


def test_a_model_without_a_schema_is_503_with_retry_after(models: tuple[ModelSettings, ...]) -> None:
    with pytest.raises(Problem) as caught:
        find(models, "someone/unreachable")
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
        find(models, OURS)
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
    version = find_with(models, output)
    assert (version.streams, version.streams_files) == (streams, files)


def test_only_strings_that_the_schema_declares_as_files_are_files(models: tuple[ModelSettings, ...]) -> None:
    file = {"type": "string", "format": "uri"}
    output = {"type": "object", "properties": {"clip": file, "more": {"$ref": "#/components/schemas/More"}}}
    more = {"anyOf": [{"type": "array", "items": file}, {"type": "null"}]}
    version = find_with(models, output, More=more)
    assert version.files_in({"clip": "data:,1", "text": "data:,2", "more": ["data:,3"]}) == {"data:,1", "data:,3"}
    assert version.files_in({"more": None}) == set()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    directory = tmp_path_factory.mktemp("api")
    with ApiInProcess(directory, models=make_models(directory)) as running:
        running.http.base_url = f"{running.url}/v1"
        running.http.event_hooks = {"response": [check_response]}
        yield running


def test_models_and_versions_are_listed_newest_first_and_read_by_name(api: ApiInProcess) -> None:
    path = "/models/lucataco/animate-diff"
    paths = ("/models", path, f"{path}/versions", f"{path}/versions/{DOCUMENTED}")
    models, model, versions, version = (api.http.get(path).json() for path in paths)
    assert [entry["id"] for entry in versions["results"]] == [OURS, DOCUMENTED]
    assert [entry["created_at"] for entry in versions["results"]] == sorted(
        (entry["created_at"] for entry in versions["results"]), reverse=True
    )
    assert version == versions["results"][1]
    assert model["latest_version"] == versions["results"][0]
    assert model in models["results"]
    assert model["url"] == f"{api.url}/v1/models/lucataco/animate-diff"


def test_run_count_is_the_number_of_predictions_and_is_read_from_an_index(api: ApiInProcess) -> None:
    for model in ("lucataco/animate-diff", "someone/unreachable", "lucataco/animate-diff"):
        api.add_prediction(model=model)
    query = "EXPLAIN QUERY PLAN SELECT count(*) FROM predictions WHERE model = 'a/b'"
    plan = api.run(api.service.database.read(lambda connection: str(connection.exec_driver_sql(query).all())))
    assert "SEARCH" in plan
    counts = {model["name"]: model["run_count"] for model in api.http.get("/models").json()["results"]}
    assert counts == {"animate-diff": 2, "unreachable": 1}
    assert api.http.get("/models/lucataco/animate-diff").json()["run_count"] == 2


def test_a_model_without_a_schema_is_listed_without_a_version(api: ApiInProcess) -> None:
    models = api.http.get("/models").json()["results"]
    assert {model["name"] for model in models if model["latest_version"] is None} == {"unreachable"}


# replicate-python sends bare words, replicate-javascript sends quotes.
@pytest.mark.parametrize(
    ("words", "names"), [(b"CLIP diff", ["animate-diff"]), (b'"animate"', ["animate-diff"]), (b"walk", [])]
)
def test_models_are_searched_with_bare_words_and_with_quotes(api: ApiInProcess, words: bytes, names: list[str]) -> None:
    results = api.http.request("QUERY", "/models", content=words).json()["results"]
    assert [model["name"] for model in results] == names


def test_a_search_of_more_than_4_kib_is_413(api: ApiInProcess) -> None:
    assert api.http.request("QUERY", "/models", content=b"a" * 5000).status_code == 413


@pytest.mark.parametrize(
    "path",
    ["o/n", "lucataco/other", "o/n/versions", f"lucataco/animate-diff/versions/{'a' * 64}", f"o/n/versions/{OURS}"],
)
def test_an_unknown_model_or_version_is_404(api: ApiInProcess, path: str) -> None:
    answer = api.http.get(f"/models/{path}")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "The requested resource could not be found.", "status": 404}  # recorded
