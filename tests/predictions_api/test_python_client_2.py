"""Replicate's Python client 2.0.0b4, a pre-release, with every answer checked against Replicate's OpenAPI document.

It has the import name of 1.0.7, so pip installs it once into pytest's cache, from python2/requirements.txt, and a
process of its own uses it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from api_server import MODEL_FILES, VERSIONS, ApiServer
from replicate_contract import check_answers

SOURCES = Path(__file__).parent / "python2"


@pytest.fixture(scope="session")
def packages(pytestconfig: pytest.Config) -> Path:
    """Return a directory with the installed client."""
    requirements = SOURCES / "requirements.txt"
    directory = pytestconfig.cache.mkdir("replicate-python-2")
    installed = directory / requirements.name
    if not installed.exists() or installed.read_bytes() != requirements.read_bytes():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        options = ["--no-deps", "--require-hashes", "--target", directory]
        subprocess.run([*pip, *options, "-r", requirements], check=True)
        shutil.copy(requirements, installed)
    return directory


@pytest.fixture(scope="module")
def report(server: ApiServer, packages: Path) -> Any:
    """Return the output of client.py: the `results` of each use and all `answers` of the server."""
    return server.report_of_client([sys.executable, "client.py"], SOURCES, PYTHONPATH=str(packages))


@pytest.mark.parametrize(
    ("use", "result"),
    [
        ("run", "out"),
        ("run without waiting", "out"),
        ("run without a version", "newest"),
        ("run that fails", "ModelError: ValueError: failed on request"),
        ("run of words", ["one ", "two "]),
        ("run of a file", "abc"),
        ("run of files", ["file 0", "file 1"]),
        ("file as input", "from a file"),
        ("use", "by use"),
        ("cancel", ["starting", "canceled", "canceled"]),
        ("list", True),
        ("models", sorted(VERSIONS)),
        ("search", ["words"]),
        ("latest version", VERSIONS["text"]),
        ("versions", 1),
        ("account", "user"),
        ("hardware", ["local"]),
        ("secret", "whsec_"),
        ("collections", []),
        ("deployments", []),
        ("trainings", []),
    ],
)
def test_a_use_of_the_client_has_the_expected_result(report: dict[str, Any], use: str, result: object) -> None:
    assert report["results"][use] == result


def test_the_client_is_the_pre_release(report: dict[str, Any]) -> None:
    assert report["version"] == "2.0.0-beta.4"
    assert all(answer["agent"].startswith("Replicate/Python 2.") for answer in report["answers"])


def test_every_answer_matches_replicates_openapi_document(report: dict[str, Any]) -> None:
    assert check_answers(report["answers"]) > 30


def test_the_metadata_of_an_upload_is_kept(report: dict[str, Any]) -> None:
    upload = report["results"]["upload"]
    assert upload["metadata"] == {"customer": "123", "tags": ["a", "b"], "of": {"kind": "notes"}}
    assert (upload["size"], upload["kind"], upload["same"], upload["input"]) == (10, "text/plain", True, "some bytes")
    assert upload["after"].startswith("NotFoundError: ")


def test_examples_and_readmes_are_read(report: dict[str, Any]) -> None:
    example = json.loads((MODEL_FILES / "examples" / "example.json").read_text())
    content = (MODEL_FILES / "examples" / example["output"]).read_text()
    readme = (MODEL_FILES / "README.md").read_text()
    assert report["results"]["examples"] == {"id": example["id"], "content": content, "readme": readme}


def test_an_unknown_version_and_a_wrong_token_are_refused_with_replicates_errors(report: dict[str, Any]) -> None:
    results = report["results"]
    assert results["unknown version"].startswith("UnprocessableEntityError: Error code: 422")
    assert "Invalid version or not permitted" in results["unknown version"]
    assert results["wrong token"].startswith("AuthenticationError: Error code: 401")
    assert "You did not pass a valid authentication token" in results["wrong token"]
