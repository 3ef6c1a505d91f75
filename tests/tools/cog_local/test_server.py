"""Specification of cog_server: a server that is ready, or a clear error, and nothing left behind."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from cog_local.server import CogServer, GivenUp, ServerError
from processes import processes_with

if TYPE_CHECKING:
    from pathlib import Path

PREDICT = """
import atexit, os, time
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
    return directory


def test_a_prediction_gives_its_file_and_the_server_its_schema(tmp_path: Path) -> None:
    with CogServer(model(tmp_path)) as server:
        answer = server.predict({"steps": 2})
        schema = server.get("/openapi.json")
    assert answer["status"] == "succeeded"
    assert answer["output"] == "data:video/mp4;base64,YWJj"  # RFC 4648's base64 of abc
    assert schema == json.loads((tmp_path / ".cog" / "openapi_schema.json").read_text())


def test_the_server_validates_with_the_schema(tmp_path: Path) -> None:
    with CogServer(model(tmp_path)) as server:
        answer = server.predict({"steps": 1001})
    assert answer["detail"][0]["loc"] == ["body", "input", "steps"]
    assert answer["detail"][0]["msg"] == "1001 is greater than the maximum of 1000"


def test_what_the_model_prints_is_passed_on(tmp_path: Path) -> None:
    lines: list[str] = []
    with CogServer(model(tmp_path, 'print("loading")'), on_log=lines.append):
        pass
    assert lines == ["loading"]


def test_the_choice_of_weights_reaches_the_model(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "mine").mkdir()
    setup = 'print(os.environ["WEIGHTS"])'
    for weights in ("demo", "full", os.path.relpath(tmp_path / "mine")):
        with CogServer(model(tmp_path, setup), weights=weights, on_log=lines.append):
            pass
    assert lines == ["demo", "full", str(tmp_path / "mine")]


@pytest.mark.parametrize(
    ("setup", "top", "told"),
    [
        ("raise RuntimeError('no weights')", "", "set-up failed: RuntimeError: no weights"),
        ("raise SystemExit(3)", "", "set-up failed: SystemExit: 3"),
        ("os.abort()", "", "set-up failed: worker crashed"),
        ("pass", "import nonexistent", "ModuleNotFoundError: No module named 'nonexistent'"),
    ],
)
def test_a_set_up_that_fails_is_told_with_its_reason(tmp_path: Path, setup: str, top: str, told: str) -> None:
    with pytest.raises(ServerError, match=told), CogServer(model(tmp_path, setup, top)):
        pass


def test_a_worker_that_cannot_start_is_told(tmp_path: Path) -> None:
    # A `python` without coglet, first on the path, is what the server would start its worker with.
    other = tmp_path / "bin"
    other.mkdir()
    (other / "python").write_text(f"#!/bin/sh\nexec '{sys.executable}' -S \"$@\"\n")
    (other / "python").chmod(0o755)
    path = {"PATH": f"{other}{os.pathsep}{os.environ['PATH']}"}
    with pytest.raises(ServerError, match="No module named 'coglet'"), CogServer(model(tmp_path), env=path):
        pass


def test_a_python_without_cog_is_told(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\nexec '{sys.executable}' -S \"$@\"\n")
    bare.chmod(0o755)
    with pytest.raises(ServerError, match="the server ended with status 1"), CogServer(model(tmp_path), python=bare):
        pass


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} "), CogServer(model(tmp_path), port=port):
            pass


def test_waiting_for_a_start_can_be_given_up(tmp_path: Path) -> None:
    give_up = threading.Event()
    give_up.set()
    with pytest.raises(GivenUp), CogServer(model(tmp_path, "time.sleep(600)"), give_up=give_up):
        pass


@pytest.mark.parametrize("ends", ["in order", "during a prediction", "in a failed set-up"])
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
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
            assert len(processes_with(mark)) == 2  # the server and its worker
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


def test_a_running_prediction_is_cancelled_by_the_end_of_the_server(tmp_path: Path) -> None:
    answers = []
    with CogServer(model(tmp_path)) as server:
        thread = threading.Thread(target=lambda: answers.append(server.predict({"steps": 1000}, "one")))
        thread.start()
        while server.get("/health-check")["status"] != "BUSY":
            pass
    thread.join()
    assert answers[0]["status"] == "canceled"


def test_exit_handlers_of_the_worker_run_to_their_end(tmp_path: Path) -> None:
    done = tmp_path / "done"
    top = f"def last() -> None:\n    time.sleep(0.5)\n    LocalPath({str(done)!r}).touch()\n"
    with CogServer(model(tmp_path, "atexit.register(last)", top)):
        pass
    assert done.exists()


def test_a_worker_that_dies_fails_the_prediction(tmp_path: Path) -> None:
    (tmp_path / "predict.py").write_text(
        "import os\nfrom cog import BaseRunner, Input, Path\nclass Predictor(BaseRunner):\n"
        "    def run(self, x: int = Input(default=1)) -> Path:\n        os.abort()\n"
    )
    with CogServer(tmp_path) as server:
        assert server.predict({})["status"] == "failed"
