"""The official JavaScript client, replicate 1.4.0, under Node; every answer against Replicate's OpenAPI.

npm installs it once into pytest's cache, from javascript/package-lock.json.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from api_server import TOKEN, VERSIONS, ApiServer
from programs import needs
from replicate_contract import check_answer, checks

SOURCES = Path(__file__).parent / "javascript"


@pytest.fixture(scope="session")
def installed(pytestconfig: pytest.Config) -> Path:
    """A directory with the client in it, and the script that uses it."""
    npm = needs("npm")
    directory = pytestconfig.cache.mkdir("replicate-javascript")
    for source in SOURCES.iterdir():
        shutil.copy(source, directory)
    lock, done = directory / "package-lock.json", directory / "installed-lock.json"
    if not done.exists() or done.read_bytes() != lock.read_bytes():
        subprocess.run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=directory, check=True)
        shutil.copy(lock, done)
    return directory


@pytest.fixture(scope="module")
def said(server: ApiServer, installed: Path) -> dict[str, Any]:
    """What the script wrote: `results` of each use, and all `answers` of the server."""
    environ = {**os.environ, "BASE_URL": server.url, "TOKEN": TOKEN, "VERSIONS": json.dumps(VERSIONS)}
    ran = subprocess.run([needs("node"), "client.mjs"], cwd=installed, env=environ, stdout=subprocess.PIPE, timeout=120)
    assert ran.returncode == 0
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize(
    ("use", "result"),
    [
        ("run", "out"),
        ("runByPolling", "out"),
        ("runLongerThanTheWait", "late"),
        ("runWithoutVersion", "newest"),
        ("runThatFails", "Prediction failed: ValueError: told to fail"),
        ("runOfParts", ["one ", "two "]),
        ("runOfAFile", {"start": "data:text/plain;base64,", "type": "text/plain", "text": "abc"}),
        ("runOfFiles", ["file 0", "file 1"]),
        ("fileInput", "from a blob"),
        ("cancel", {"before": "starting", "after": "canceled", "same": True}),
        ("abort", "canceled"),
        ("webhook", {"status": "succeeded", "valid": True, "changed": False}),
        ("streamOfWords", [["output", "one "], ["output", "two "], ["done", "{}"]]),
        ("streamOfFiles", [["output", "file 0"], ["output", "file 1"], ["done", "{}"]]),
        ("noStream", "Prediction does not support streaming"),
        ("list", {"newest": True, "output": "listed"}),
        ("account", ["type", "username", "name"]),
        ("hardware", 1),
    ],
)
def test_the_client_gets(said: dict[str, Any], use: str, result: object) -> None:
    assert said["results"][use] == result


def test_every_answer_is_one_of_replicates(said: dict[str, Any]) -> None:
    answers = [answer for answer in said["answers"] if checks(answer["url"])]
    assert len(answers) > 30
    for answer in answers:
        check_answer(answer["method"], answer["url"], answer["status"], answer["type"], answer["body"].encode())


def test_streams_and_files_are_read_without_the_token(said: dict[str, Any]) -> None:
    # The client sends no token there: replicate-javascript@2fd6f39, lib/stream.js.
    open_ones = [answer for answer in said["answers"] if "/streams/" in answer["url"] or "/delivery/" in answer["url"]]
    assert {"streams", "delivery"} <= {part for answer in open_ones for part in urlsplit(answer["url"]).path.split("/")}
    for answer in open_ones:
        assert (answer["status"], answer["authorized"]) == (200, False)


def test_progress_is_seen_while_it_runs(said: dict[str, Any]) -> None:
    progress = said["results"]["progress"]
    assert 0 < progress["between"]["current"] < 8
    assert progress["last"] == {"status": "succeeded", "percentage": 1, "current": 8, "total": 8}


def test_an_upload_is_described_listed_used_and_deleted(said: dict[str, Any]) -> None:
    upload = said["results"]["upload"]
    made = upload["made"]
    assert (made["name"], made["content_type"], made["size"]) == ("notes.txt", "text/plain", 10)
    assert made["metadata"] == {"customer": 123}  # which this client sends as a part with a file's name
    assert upload["got"] == made
    assert upload["first"] == made["id"]
    assert upload["asInput"] == "some bytes"
    assert upload["deleted"] is True
    assert "failed with status 404" in upload["after"]
    assert "File not found" in upload["after"]


def test_models_and_versions_are_found(said: dict[str, Any]) -> None:
    newest = VERSIONS["text"]
    assert said["results"]["models"] == {
        "listed": sorted(VERSIONS),
        "found": ["words"],
        "latest": newest,
        "versions": [newest],
        "version": newest,
    }


def test_what_is_refused_is_told_in_replicates_words(said: dict[str, Any]) -> None:
    results = said["results"]
    assert "failed with status 422" in results["unknownVersion"]
    assert "Invalid version or not permitted" in results["unknownVersion"]
    assert "failed with status 401" in results["wrongToken"]
    assert "You did not pass a valid authentication token" in results["wrongToken"]
