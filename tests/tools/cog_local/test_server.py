"""Specification of cog_local.server: a server that is ready, or a clear error, and no process or file after its end."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from cog_local.schema import write_schema
from cog_local.server import CogServer, ServerError
from processes import processes_with

if TYPE_CHECKING:
    from pathlib import Path

PREDICT = """
import os, time
from pathlib import Path as LocalPath
from cog import BaseRunner, Input, Path
{top}
class Predictor(BaseRunner):
    def setup(self) -> None:
        {setup}
    def run(self, steps: int = Input(default=1, ge=1, le=1000)) -> Path:
        for _ in range(steps):
            time.sleep(0.02)
        LocalPath("clip.mp4").write_bytes(b"abc")
        return Path("clip.mp4")
"""


def model(directory: Path, setup: str = "pass", top: str = "") -> Path:
    (directory / "predict.py").write_text(PREDICT.format(setup=setup, top=top))
    write_schema(directory)
    return directory


def test_a_prediction_returns_its_file_and_inputs_are_validated_with_the_schema(tmp_path: Path) -> None:
    with CogServer(model(tmp_path)) as server:
        answer = server.predict({"steps": 2})
        refusal = server.predict({"steps": 1001})["detail"][0]
        schema = server.get("/openapi.json")
    assert answer["status"] == "succeeded"
    assert answer["output"] == "data:video/mp4;base64,YWJj"  # RFC 4648's base64 of abc
    assert refusal["loc"] == ["body", "input", "steps"]
    assert refusal["msg"] == "1001 is greater than the maximum of 1000"
    assert schema == json.loads((tmp_path / "openapi.json").read_text())


def test_a_body_that_is_not_json_is_refused_with_the_servers_text(tmp_path: Path) -> None:
    with CogServer(model(tmp_path)) as server:
        answer = server.predict({"steps": float("nan")})
    assert answer == {"detail": answer["detail"]}
    assert answer["detail"].startswith("Failed to parse the request body as JSON: ")


def test_the_choice_of_weights_reaches_the_model_and_its_log_the_caller(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "mine").mkdir()
    setup = 'print(os.environ["WEIGHTS"])'
    for weights in ("demo", "full", os.path.relpath(tmp_path / "mine")):
        with CogServer(model(tmp_path, setup), weights=weights, on_log=lines.append) as server:
            server.predict({})  # late lines of a set-up come before its end
    assert lines == ["demo", "full", str(tmp_path / "mine")]


@pytest.mark.parametrize(
    ("setup", "top", "message"),
    [
        ("raise RuntimeError('no weights')", "", "set-up failed: RuntimeError: no weights"),
        ("raise SystemExit(3)", "", "set-up failed: SystemExit: 3"),
        ("os.abort()", "", "set-up failed: worker crashed"),
        ("pass", "import nonexistent", "ModuleNotFoundError: No module named 'nonexistent'"),
    ],
)
def test_a_failed_set_up_raises_an_error_with_its_reason(tmp_path: Path, setup: str, top: str, message: str) -> None:
    with pytest.raises(ServerError, match=message), CogServer(model(tmp_path, setup, top)):
        pass


@pytest.mark.parametrize(
    ("part", "message"), [("server", "the server ended with status 1"), ("worker", "No module named 'coglet'")]
)
def test_a_python_without_cog_raises_an_error(tmp_path: Path, part: str, message: str) -> None:
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\nexec '{sys.executable}' -S \"$@\"\n")
    bare.chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}  # where the server looks for its worker's python
    server = CogServer(model(tmp_path), python=bare) if part == "server" else CogServer(model(tmp_path), env=path)
    with pytest.raises(ServerError, match=message), server:
        pass


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} "), CogServer(model(tmp_path), port=port):
            pass


@pytest.mark.parametrize("ends", ["in order", "during a prediction", "in a failed set-up"])
def test_no_process_and_no_temporary_file_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    mark = f"CALLED_BY={tmp_path}"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    setup = "import tempfile; self.kept = tempfile.mkdtemp()"
    if ends == "in a failed set-up":
        setup += "; raise RuntimeError"
    answers = []
    try:
        with CogServer(model(tmp_path, setup), env={"CALLED_BY": str(tmp_path)}) as server:
            assert len(processes_with(mark)) == 3  # the server, its worker and the watcher
            if ends == "during a prediction":
                thread = threading.Thread(target=lambda: answers.append(server.predict({"steps": 1000}, "one")))
                thread.start()
                while not server.cancel("one"):
                    pass
                thread.join()
    except ServerError:
        assert ends == "in a failed set-up"
    assert [answer["status"] for answer in answers] == (["canceled"] if answers else [])
    assert processes_with(mark) == []
    assert list(temporary.iterdir()) == []


def test_a_crash_of_the_worker_fails_the_prediction(tmp_path: Path) -> None:
    text = (model(tmp_path) / "predict.py").read_text()
    (tmp_path / "predict.py").write_text(text.replace("time.sleep(0.02)", "os.abort()"))
    with CogServer(tmp_path) as server:
        assert server.predict({})["status"] == "failed"
