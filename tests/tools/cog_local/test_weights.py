"""Specification of script/weights, with a small model and a real HTTP server."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tree import ROOT
from weight_server import WeightServer, serve_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = ROOT / "script" / "weights"
FILES = {"unet/a.txt": b"first", "b.json": b"[1, 2]"}


@pytest.fixture
def server() -> Iterator[WeightServer]:
    with serve_files({f"/{path}": content for path, content in FILES.items()}) as running:
        yield running


@pytest.fixture
def model(server: WeightServer, tmp_path: Path) -> Path:
    """Return a model's directory, in a path with a space. Its table has `FILES` at the server."""
    package = tmp_path / "with space" / "some-model" / "some_model"
    package.mkdir(parents=True)
    entries = [
        f"WeightFile({path!r}, Url('{server.url}/{path}'), 'Apache-2.0', {len(content)}, "
        f"{hashlib.sha256(content).hexdigest()!r})"
        for path, content in FILES.items()
    ]
    table = f"from videokit.weights.table import Url, WeightFile\nFILES = [{', '.join(entries)}]\n"
    (package / "weights.py").write_text(table)
    return package.parent


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Run:
    def script(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, SCRIPT, model, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "WEIGHTS_CACHE": str(tmp_path / "cache"), **environ},
        )

    return script


def contents(directory: Path) -> dict[str, bytes]:
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}


def test_all_files_are_fetched_into_the_models_directory(run: Run, model: Path) -> None:
    done = run(WEIGHTS="demo")
    assert (done.returncode, contents(model / "weights")) == (0, FILES)
    assert str(model / "weights" / "b.json") in done.stdout


def test_named_files_are_fetched_into_the_cache(run: Run, model: Path, tmp_path: Path) -> None:
    assert run("b.json", "--to", "cache").returncode == 0
    assert contents(tmp_path / "cache") == {"b.json": b"[1, 2]"}
    assert not (model / "weights").exists()


def test_the_list_has_sizes_licences_and_locations(run: Run, server: WeightServer, model: Path) -> None:
    run("b.json")
    requests = len(server.requests)
    lines = [line.strip() for line in run("--list").stdout.splitlines()]
    assert lines == [
        "Apache-2.0: 11.0 B",
        "5.00 B  unet/a.txt: missing",
        f"6.00 B  b.json: {model / 'weights' / 'b.json'}",
        "2 files, 11.0 B; missing: 1, 5.00 B",
    ]
    assert len(server.requests) == requests


def test_verify_fails_on_wrong_bytes_and_not_on_missing_files(run: Run, model: Path) -> None:
    run("b.json")
    right = run("--verify")
    assert right.returncode == 0
    assert "unet/a.txt: missing" in right.stdout
    assert "b.json: right, by the weights table" in right.stdout
    (model / "weights" / "b.json").write_bytes(b"[1, 3]")
    wrong = run("--verify")
    assert wrong.returncode == 1
    assert "b.json: WRONG" in wrong.stdout
    assert hashlib.sha256(b"[1, 2]").hexdigest() in wrong.stdout


def test_a_failed_fetch_is_one_message_and_exit_1(run: Run, server: WeightServer) -> None:
    server.plan("/b.json", 404)
    failed = run("b.json")
    assert failed.returncode == 1
    fetching, error = failed.stderr.splitlines()
    assert fetching.startswith("weights: fetching 6.00 B from 127.0.0.1 to ")
    assert error.startswith(f"b.json: {server.url}/b.json: answered 404 Not Found; ")


def test_offline_names_the_command_for_what_is_missing(run: Run) -> None:
    failed = run(WEIGHTS_OFFLINE="1")
    assert failed.returncode == 1
    assert "script/weights some-model unet/a.txt b.json" in failed.stderr


def test_an_unknown_file_exits_2(run: Run) -> None:
    unknown = run("c.json")
    assert unknown.returncode == 2
    assert "not in the weights table: c.json" in unknown.stderr
