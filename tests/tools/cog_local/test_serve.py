"""Specification of script/serve: all models behind the predictions API, or one model as its Cog server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from called_scripts import serving
from processes import processes_with, wait_until_ended
from pseudo_terminal import CTRL_C, terminal


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a variable in the environment of all processes that this test starts."""
    monkeypatch.setenv("STARTED_BY", str(tmp_path))
    monkeypatch.delenv("REPLICATE_API_TOKEN", raising=False)
    return f"STARTED_BY={tmp_path}"


def request_json(url: str, body: dict[str, Any] | None = None) -> Any:
    headers = {"Content-Type": "application/json", "Prefer": "wait"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=90) as answer:
        return json.load(answer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_all_models_are_served_start_when_needed_and_end_with_the_api(repository: Path, mark: str, number: int) -> None:
    with serving(repository) as (process, url):
        models = request_json(f"{url}/v1/models")["results"]
        assert {f"{model['owner']}/{model['name']}" for model in models} == {"local/one-file", "local/several-files"}
        assert processes_with(mark) == [process.pid]
        done = request_json(f"{url}/v1/models/local/one-file/predictions", {"input": {"steps": 1}})
        assert (done["status"], done["metrics"]["frames"]) == ("succeeded", 16)
        assert done["output"] == "data:video/mp4;base64,ZnJvbSBub3RoaW5n"  # RFC 4648's base64 of "from nothing"
        assert len(processes_with(mark)) == 5  # the API, script/serve, Cog's server, its worker and the watcher
        process.send_signal(number)
        wait_until_ended(mark)


def test_a_missing_directory_of_weights_is_refused_before_anything_is_installed(changed_repository: Path) -> None:
    (changed_repository / ".venv" / "made-from").unlink()  # the next script would make the environment
    command = [changed_repository / "script" / "serve", "--weights", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'nowhere' is not demo, full, or a directory" in done.stderr


def test_a_terminal_shows_the_page_the_models_and_a_log_to_read(repository: Path) -> None:
    with terminal(repository / "script" / "serve", "--port", "0", cwd=repository, NO_COLOR="1") as shown:
        shown.wait_for("local/several-files")
        shown.press(CTRL_C)
        assert shown.status() == 130
    assert re.search(
        r"^http://127.0.0.1:\d+/ is its page .* models are local/one-file, local/several-files", shown.screen, re.M
    )
    assert re.search(r"\d+:\d+:\d+ INFO ", shown.screen)
    assert "Traceback" not in shown.screen
    assert shown.lines()[-2:] == ["stopped", ""]


def test_ctrl_c_in_a_prediction_shows_no_line_of_a_library(changed_repository: Path, mark: str) -> None:
    with terminal(changed_repository / "script" / "serve", "--port", "0", NO_COLOR="1") as shown:
        shown.wait_for("local/several-files")
        url = shown.screen.partition(" is ready at ")[2].split()[0]
        body = json.dumps({"input": {"steps": 100, "seconds": 1}}).encode()
        path = "/v1/models/local/one-file/predictions"
        request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=90).close()
        shown.wait_for("%|")  # its bar
        shown.press(CTRL_C)
        assert shown.status() == 130
    assert not re.search("WARNING|ERROR|Traceback|None| at 0x", shown.screen)
    wait_until_ended(mark)


@pytest.mark.parametrize("when", ["starting one-file", "is ready at"])
def test_ctrl_c_ends_the_server_of_a_model(repository: Path, mark: str, when: str) -> None:
    with terminal(repository / "script" / "serve", "one-file", "--port", "0") as shown:
        shown.wait_for(when)
        shown.press(CTRL_C)
        assert shown.status() == 130
    assert shown.lines()[-2:] == ["stopped", ""]
    assert processes_with(mark) == []


def test_one_model_is_its_cog_server_until_a_signal(repository: Path, mark: str) -> None:
    with serving(repository, "one-file") as (process, url):
        assert request_json(f"{url}/health-check")["status"] == "READY"
        process.terminate()
        assert process.wait() == 143  # 128 + SIGTERM
    assert processes_with(mark) == []


def test_serve_ends_with_an_error_when_its_server_is_killed(repository: Path, mark: str) -> None:
    with serving(repository, "one-file") as (process, _):
        commands = {number: Path(f"/proc/{number}/cmdline").read_text() for number in processes_with(mark)}
        (server,) = (number for number, command in commands.items() if "cog.server.http" in command)
        os.kill(server, signal.SIGKILL)  # the others end with it
        assert process.wait() == 1
        assert process.stderr is not None
        assert "the server ended with status -9" in process.stderr.read()
    assert processes_with(mark) == []


def test_a_killed_serve_leaves_no_process_and_no_file(
    repository: Path, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with serving(repository, "one-file") as (process, _):
        assert list((tmp_path / "temporary").iterdir())
        process.kill()
        wait_until_ended(mark)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_does_not_end_a_model(repository: Path, mark: str, stream: str) -> None:
    with serving(repository, "one-file") as (process, url):
        getattr(process, stream).close()
        assert request_json(f"{url}/predictions", {"input": {"steps": 1}})["status"] == "succeeded"


def test_until_stdin_ends_ends_the_server_when_stdin_is_closed(repository: Path, mark: str) -> None:
    with serving(repository, "one-file", "--until-stdin-ends") as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 143
    assert processes_with(mark) == []
