"""Specification of script/predict and script/serve: Cog's real server, with a model that does next to nothing."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import IO

import pytest
from processes import processes_with


def predict(tree: Path, cwd: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(tree / "script" / "predict"), *arguments]
    return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)


def test_a_clip_is_written_here_and_told_with_its_facts(tree: Path, tmp_path: Path) -> None:
    done = predict(tree, tmp_path, "one-file", "-i", "seed=5")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/one-file.mp4: 0 KB, 16 frames, 2.00 s, seed 5\n"
    assert [path.name for path in tmp_path.iterdir()] == ["one-file.mp4"]


def test_the_log_and_a_thinned_bar_are_shown(tree: Path, tmp_path: Path) -> None:
    done = predict(tree, tmp_path, "one-file", "-i", "steps=40")
    lines = done.stderr.splitlines()
    assert lines[0] == "loading nothing"
    assert [line.partition("%")[0] for line in lines[1:]] == ["0", "25", "50", "75", "100"]


def test_a_bar_redraws_its_line_on_a_terminal(tree: Path, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    command = [str(tree / "script" / "predict"), "one-file", "-i", "steps=3"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        while select.select([controller], [], [], 60)[0]:
            try:
                shown += os.read(controller, 4096)
            except OSError:  # Linux's way to say that the other end is closed
                break
        assert process.wait() == 0
    os.close(controller)
    # "0%|", "33%|", "67%|", "100%|" one over the other, then one line end (a terminal makes \r\n of it)
    bars = shown.partition(b"loading nothing\r\n")[2]
    assert bars.count(b"\r\n") == 1
    assert bars.endswith(b"\r\n")
    assert b"\r33%|" in bars


def test_a_file_is_sent_and_the_place_is_chosen(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"a picture")
    (tmp_path / "there").mkdir()
    for place, written in [("out.mov", "out.mov"), ("out", "out.mp4"), ("there", "there/one-file.mp4")]:
        done = predict(tree, tmp_path, "one-file", "-i", "image=@in.png", "-o", place)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / written).read_bytes() == b"made of a picture"


def test_several_outputs_get_an_index(tree: Path, tmp_path: Path) -> None:
    done = predict(tree, tmp_path, "several-files", "-i", "words=a", "-i", "words=b", "-o", "clip.gif")
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"clip.0.gif": "a", "clip.1.gif": "b"}


def test_a_model_that_yields_its_files_refuses_as_one_that_returns_them(tree: Path, tmp_path: Path) -> None:
    done = predict(tree, tmp_path, "several-files", "-i", "words=a", "-i", "words=")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "a word is empty")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_the_models_name_is_no_place_for_the_clip(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "one-file").mkdir()
    assert predict(tree, tmp_path, "one-file").returncode == 0
    assert (tmp_path / "one-file.mp4").exists()


def test_inputs_come_from_stdin(tree: Path, tmp_path: Path) -> None:
    done = predict(tree, tmp_path, "one-file", "--json", "-", stdin='{"seed": 9}')
    assert done.stdout.endswith("seed 9\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-i", "steps=101", "-i", "mood=x"], ["mood is not an input; did you mean mode?", "steps=101 is greater"]),
        (["-i", "image=@nowhere"], ["image: nowhere cannot be read"]),
        (["--json", "{"], ["--json: not JSON"]),
        (["-o", "nowhere/clip.mp4"], ["-o nowhere/clip.mp4: there is no directory nowhere"]),
        (["--weights", "nowhere"], ["--weights nowhere: it is demo, full, or a directory"]),
        (["-i", "mode=refuse"], ["width=3 is odd; try 4", "seed=-1 is outside what is allowed"]),  # the model's own
    ],
)
def test_bad_inputs_are_told_one_line_each(tree: Path, tmp_path: Path, arguments: list[str], told: list[str]) -> None:
    done = predict(tree, tmp_path, "one-file", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    shown = [line for line in done.stderr.splitlines() if "%|" not in line and line != "loading nothing"]
    assert len(shown) == len(told)
    for line, start in zip(sorted(shown), sorted(told), strict=True):
        assert line.startswith(start)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_is_told_with_those_that_there_are(tree: Path, tmp_path: Path) -> None:
    done = predict(tree, tmp_path, "two-files")
    assert done.returncode == 2
    assert "one-file" in done.stderr
    assert "several-files" in done.stderr


def test_a_failed_prediction_is_told_without_cogs_prefixes(tree: Path, tmp_path: Path) -> None:
    done = predict(tree, tmp_path, "one-file", "-i", "mode=fail")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: the model fell over"
    assert list(tmp_path.iterdir()) == []


def wait_for(text: str, stream: IO[str]) -> str:
    for line in stream:
        if text in line:
            return line
    raise AssertionError(f"ended without {text!r}")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["loading", "0%|"])
def test_an_interrupt_cancels_and_leaves_nothing(tree: Path, tmp_path: Path, sign: int, when: str) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environ = {**os.environ, "TMPDIR": str(temporary)}
    command = [str(tree / "script" / "predict"), "one-file", "-i", "steps=100", "-i", "seconds=0.5"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        wait_for(when, process.stderr)
        process.send_signal(sign)
        assert process.stderr.read().splitlines()[-1] == "cancelled"
        assert process.stdout.read() == ""
        assert process.wait() == 130
    assert processes_with(f"TMPDIR={temporary}") == []
    assert list(temporary.iterdir()) == []
    assert list(tmp_path.iterdir()) == [temporary]


def test_serve_says_when_it_is_ready_and_ends_its_server(tree: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [str(tree / "script" / "serve"), "one-file", "--port", "0"]
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = wait_for("one-file is ready at http://127.0.0.1:", process.stdout)
        with urllib.request.urlopen(f"{line.split()[-1]}/health-check") as answer:
            assert b'"READY"' in answer.read()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""
        assert process.wait() == 0
    assert processes_with(f"TMPDIR={tmp_path}") == []


def test_serve_ends_with_an_error_when_its_server_dies(tree: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [str(tree / "script" / "serve"), "one-file", "--port", "0"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        wait_for("is ready", process.stdout)
        for found in processes_with(f"TMPDIR={tmp_path}"):
            if "cog.server.http" in Path(f"/proc/{found}/cmdline").read_text():
                os.kill(found, signal.SIGKILL)
        assert "the server ended with status -9" in process.stderr.read()
        assert process.wait() == 1
