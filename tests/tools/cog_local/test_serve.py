"""Specification of script/serve: all models behind the predictions API, or one model as its Cog server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import processes_with


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a variable in the environment of all processes that this test starts."""
    monkeypatch.setenv("STARTED_BY", str(tmp_path))
    monkeypatch.delenv("REPLICATE_API_TOKEN", raising=False)
    return f"STARTED_BY={tmp_path}"


def wait_until_ended(mark: str) -> None:
    deadline = time.monotonic() + 60
    while processes_with(mark):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def request_json(url: str, body: dict[str, Any] | None = None) -> Any:
    headers = {"Content-Type": "application/json", "Prefer": "wait"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=90) as answer:
        return json.load(answer)


class Serving:
    """A running script/serve."""

    def __init__(self, repository: Path, *arguments: str, stderr: int = subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [sys.executable, repository / "script" / "serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " is ready at " in line
        self.url = line.split(" is ready at ")[1].split()[0]

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        for pipe in filter(None, (self.process.stdin, self.process.stdout, self.process.stderr)):
            pipe.close()


@pytest.fixture
def api(repository: Path, mark: str) -> Iterator[Serving]:
    with Serving(repository, "--port", "0") as serving:
        yield serving
    wait_until_ended(mark)


def test_all_models_are_served_and_start_when_they_are_needed(api: Serving, mark: str) -> None:
    models = request_json(f"{api.url}/v1/models")["results"]
    assert {f"{model['owner']}/{model['name']}" for model in models} == {"local/one-file", "local/several-files"}
    assert processes_with(mark) == [api.process.pid]
    done = request_json(f"{api.url}/v1/models/local/one-file/predictions", {"input": {"steps": 1}})
    assert (done["status"], done["metrics"]["frames"]) == ("succeeded", 16)
    assert done["output"] == "data:video/mp4;base64,ZnJvbSBub3RoaW5n"  # RFC 4648's base64 of "from nothing"


def test_a_killed_api_leaves_no_model_behind(api: Serving, mark: str) -> None:
    request_json(f"{api.url}/v1/models/local/one-file/predictions", {"input": {"steps": 1}})
    assert len(processes_with(mark)) == 4  # the API, script/serve, Cog's server and its worker
    api.process.send_signal(signal.SIGKILL)
    wait_until_ended(mark)


def test_an_option_that_the_api_does_not_know_is_refused(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, repository / "script" / "serve", "--nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unrecognized arguments: --nonsense" in done.stderr


def test_an_unknown_model_is_refused_with_the_names_of_the_models(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, repository / "script" / "serve", "on-file"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "one-file" in done.stderr


def test_one_model_is_its_cog_server_until_a_signal(repository: Path, mark: str) -> None:
    with Serving(repository, "one-file", "--port", "0") as serving:
        assert request_json(f"{serving.url}/health-check")["status"] == "READY"
        serving.process.terminate()
        assert serving.process.wait() == 0
    assert processes_with(mark) == []


def test_serve_ends_with_an_error_when_its_server_is_killed(repository: Path, mark: str) -> None:
    with Serving(repository, "one-file", "--port", "0", stderr=subprocess.PIPE) as serving:
        for process in processes_with(mark):
            if "cog.server.http" in Path(f"/proc/{process}/cmdline").read_text():
                os.kill(process, signal.SIGKILL)
        assert serving.process.wait() == 1
        assert serving.process.stderr is not None
        assert "the server ended with status -9" in serving.process.stderr.read()
    assert processes_with(mark) == []


def test_until_stdin_ends_ends_the_server_when_stdin_is_closed(repository: Path, mark: str) -> None:
    with Serving(repository, "one-file", "--port", "0", "--until-stdin-ends") as serving:
        assert serving.process.stdin is not None
        serving.process.stdin.close()
        assert serving.process.wait(60) == 0
    assert processes_with(mark) == []
