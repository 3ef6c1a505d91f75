"""The official JavaScript client, replicate 1.4.0, with every answer checked against Replicate's OpenAPI document.

npm installs the client once into pytest's cache, from javascript/package-lock.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from api_server import VERSIONS, ApiServer
from programs import needs, npm_directory
from replicate_contract import check_answers

SOURCES = Path(__file__).parent / "javascript"


@pytest.fixture(scope="module")
def report(server: ApiServer, pytestconfig: pytest.Config) -> Any:
    """Return the output of client.mjs: the `results` of each use and all `answers` of the server."""
    directory = npm_directory(pytestconfig, "replicate-javascript", SOURCES)
    return server.report_of_client([needs("node"), "client.mjs"], directory)


@pytest.mark.parametrize(
    ("use", "result"),
    [
        ("run", "out"),
        ("runByPolling", "out"),
        ("runLongerThanTheWait", "late"),
        ("runWithoutVersion", "newest"),
        ("runThatFails", "Prediction failed: ValueError: failed on request"),
        ("runOfParts", ["one ", "two "]),
        ("runOfAFile", {"start": "data:text/plain;base64,", "type": "text/plain", "text": "abc"}),
        ("runOfFiles", ["file 0", "file 1"]),
        ("fileInput", "from a blob"),
        ("cancel", {"before": "starting", "after": "canceled", "same": True}),
        ("abort", "canceled"),
        ("webhook", {"status": "succeeded", "valid": True, "changed": False}),
        ("streamOfWords", [["output", "one "], ["output", "two "], ["done", "{}"]]),
        ("streamOfFiles", [["output", "file 0"], ["output", "file 1"], ["done", "{}"]]),
        ("streamOfAText", [["output", "abc"], ["done", "{}"]]),
        ("streamOfAFile", [["output", "abc"], ["done", "{}"]]),
        ("runOfAFileByPolling", "abc"),
        ("list", {"newest": True, "output": "listed"}),
        ("account", ["type", "username", "name"]),
        ("hardware", 1),
    ],
)
def test_a_use_of_the_client_has_the_expected_result(report: dict[str, Any], use: str, result: object) -> None:
    assert report["results"][use] == result


def test_every_answer_matches_replicates_openapi_document(report: dict[str, Any]) -> None:
    assert check_answers(report["answers"]) > 30


def test_streams_and_files_are_read_without_the_token(report: dict[str, Any]) -> None:
    # The client sends no token there: replicate-javascript@2fd6f39, lib/stream.js.
    public = [answer for answer in report["answers"] if "/streams/" in answer["url"] or "/delivery/" in answer["url"]]
    assert {"streams", "delivery"} <= {part for answer in public for part in urlsplit(answer["url"]).path.split("/")}
    for answer in public:
        assert (answer["status"], answer["authorized"]) == (200, False)


def test_progress_is_read_from_the_logs_of_a_running_prediction(report: dict[str, Any]) -> None:
    progress = report["results"]["progress"]
    assert 0 < progress["between"]["current"] < 8
    assert progress["last"] == {"status": "succeeded", "percentage": 1, "current": 8, "total": 8}


def test_a_file_is_uploaded_read_listed_used_as_input_and_deleted(report: dict[str, Any]) -> None:
    upload = report["results"]["upload"]
    file = upload["file"]
    assert (file["name"], file["content_type"], file["size"]) == ("notes.txt", "text/plain", 10)
    assert file["metadata"] == {"customer": 123}  # this client sends it as a part with a filename
    assert upload["got"] == file
    assert upload["first"] == file["id"]
    assert upload["asInput"] == "some bytes"
    assert upload["deleted"] is True
    assert "failed with status 404" in upload["after"]
    assert "File not found" in upload["after"]


def test_models_and_versions_are_listed_searched_and_read(report: dict[str, Any]) -> None:
    newest = VERSIONS["text"]
    assert report["results"]["models"] == {
        "listed": sorted(VERSIONS),
        "matching": ["words"],
        "latest": newest,
        "versions": [newest],
        "version": newest,
    }


def test_an_unknown_version_and_a_wrong_token_are_refused_with_replicates_errors(report: dict[str, Any]) -> None:
    results = report["results"]
    assert "failed with status 422" in results["unknownVersion"]
    assert "Invalid version or not permitted" in results["unknownVersion"]
    assert "failed with status 401" in results["wrongToken"]
    assert "You did not pass a valid authentication token" in results["wrongToken"]
