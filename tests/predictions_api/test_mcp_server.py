"""Replicate's MCP server, replicate-mcp 0.9.0, in front of this server: predictions, and each tool that reads.

npm installs it once into pytest's cache, from mcp/package-lock.json. Some of its tools answer only "Successful tool
call". For these the tests check what the MCP server got from this server.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from api_server import MODEL_FILES, VERSIONS, ApiServer
from programs import needs, npm_directory
from replicate_contract import check_answers

SOURCES = Path(__file__).parent / "mcp"


@pytest.fixture(scope="module")
def report(server: ApiServer, pytestconfig: pytest.Config) -> Any:
    """Return the output of client.mjs: the names of the `tools`, and the `calls`."""
    upload = server.http.post("/files", files={"content": ("notes", b"some bytes", "application/octet-stream")}).text
    directory = npm_directory(pytestconfig, "replicate-mcp", SOURCES)
    return server.report_of_client([needs("node"), "client.mjs"], directory, UPLOAD=upload)


@pytest.fixture(scope="module")
def values(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a user gets from each call that answers a value."""
    return {name: call["value"] for name, call in report["calls"].items() if "value" in call}


def answer(report: dict[str, Any], name: str) -> Any:
    """Return the JSON that the MCP server got in a call whose text has none."""
    call = report["calls"][name]
    assert call["value"] == "Successful tool call"
    (got,) = call["answers"]
    return json.loads(got["body"])


def test_a_prediction_is_created_and_read_until_its_end(values: dict[str, Any]) -> None:
    created, ended = values["created"], values["ended"]
    assert created["status"] in ("starting", "processing")
    assert (ended["id"], ended["status"], ended["output"]) == (created["id"], "succeeded", "out")
    assert values["invoked"] == ended


def test_a_prediction_by_the_name_of_its_model_waits_for_the_output(values: dict[str, Any]) -> None:
    prediction = values["waited"]
    assert (prediction["status"], prediction["output"], prediction["model"]) == ("succeeded", "waited", "test/text")


def test_an_output_that_is_a_file_is_its_url(values: dict[str, Any], server: ApiServer) -> None:
    assert server.http.get(values["endedOfAFile"]["output"]).text == "abc"


def test_a_failed_prediction_has_its_error(values: dict[str, Any]) -> None:
    assert (values["failed"]["status"], values["failed"]["output"]) == ("failed", None)
    assert "failed on request" in values["failed"]["error"]


def test_a_running_prediction_is_canceled(values: dict[str, Any]) -> None:
    assert values["running"]["status"] == "processing"
    assert values["cancel"]["id"] == values["canceled"]["id"] == values["started"]["id"]
    assert values["canceled"]["status"] == "canceled"


def test_predictions_are_listed_newest_first(values: dict[str, Any]) -> None:
    listed = [prediction["id"] for prediction in values["predictions"]["results"]]
    assert listed[:5] == [values[name]["id"] for name in ("started", "failed", "ofAFile", "waited", "created")]


def test_models_are_listed_searched_and_read(report: dict[str, Any], values: dict[str, Any]) -> None:
    assert {model["name"] for model in values["models"]["results"]} == set(VERSIONS)
    assert [model["name"] for model in answer(report, "search")["results"]] == ["words"]
    assert answer(report, "model")["latest_version"]["id"] == VERSIONS["text"]


def test_versions_are_listed_and_read(report: dict[str, Any]) -> None:
    version = answer(report, "version")
    assert version["id"] == VERSIONS["text"]
    assert answer(report, "versions")["results"] == [version]


def test_a_readme_and_examples_are_read(report: dict[str, Any], values: dict[str, Any]) -> None:
    example = json.loads((MODEL_FILES / "examples" / "example.json").read_text())
    assert values["readme"] == (MODEL_FILES / "README.md").read_text()
    (listed,) = answer(report, "examples")["results"]
    assert (listed["id"], listed["input"]) == (example["id"], example["input"])


def test_lists_of_what_this_server_lacks_are_empty(report: dict[str, Any], values: dict[str, Any]) -> None:
    assert answer(report, "collections")["results"] == []
    assert values["deployments"]["results"] == values["trainings"]["results"] == []


def test_an_uploaded_file_is_read_listed_downloaded_used_as_input_and_deleted(
    report: dict[str, Any], values: dict[str, Any]
) -> None:
    assert (values["file"]["name"], values["file"]["size"]) == ("notes", 10)
    assert values["files"]["results"][0] == values["file"]
    assert base64.b64decode(values["download"]) == b"some bytes"
    assert values["ofTheFile"]["output"] == "some bytes"
    assert "error" not in report["calls"]["delete"]
    assert "404" in report["calls"]["deleted"]["error"]


def test_the_account_hardware_and_secret_are_read(values: dict[str, Any]) -> None:
    assert values["account"]["type"] == "user"
    assert [hardware["sku"] for hardware in values["hardware"]] == ["local"]
    assert values["secret"]["key"].startswith("whsec_")


@pytest.mark.parametrize("kind", ["Model", "Prediction", "Collection", "Deployment", "Training", "File"])
def test_what_is_unknown_is_an_error_with_its_status(report: dict[str, Any], kind: str) -> None:
    assert "404" in report["calls"][f"unknown{kind}"]["error"]


def test_a_wrong_input_is_an_error_that_names_it(report: dict[str, Any]) -> None:
    error = report["calls"]["wrongInput"]["error"]
    assert "422" in error
    assert "sleep" in error


def test_every_answer_matches_replicates_openapi_document(report: dict[str, Any]) -> None:
    answers = [got for call in report["calls"].values() for got in call["answers"]]
    assert check_answers(answers) >= len(report["calls"])


def test_every_tool_that_reads_is_called(report: dict[str, Any]) -> None:
    reading = {name for name in report["tools"] if name.startswith(("get_", "list_", "search_"))}
    own = {"list_api_endpoints", "get_api_endpoint_schema"}  # read the MCP server's own tables
    assert reading - own == {call["tool"] for call in report["calls"].values()} & reading
    assert own <= reading
