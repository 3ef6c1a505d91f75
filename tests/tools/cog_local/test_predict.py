"""Specification of script/predict, with Cog's real server and two models without weights."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
from pathlib import Path

import pytest
from processes import processes_with


def predict(repository: Path, cwd: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(repository / "script" / "predict"), *arguments]
    return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)


def test_a_clip_is_written_here_and_reported_with_its_facts(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "one-file", "--json", "-", stdin='{"seed": 5}')
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/one-file.mp4: 0 KB, 16 frames, 2.00 s, seed 5\n"
    assert [path.name for path in tmp_path.iterdir()] == ["one-file.mp4"]


def test_the_log_and_a_thinned_bar_are_shown(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "one-file", "-i", "steps=40")
    advice, loading, *bars = done.stderr.splitlines()
    assert advice.endswith("script/predict one-file --server http://127.0.0.1:8000")
    assert loading == "loading"
    assert [line.partition("%")[0] for line in bars] == ["0", "25", "50", "75", "100"]


def test_a_bar_redraws_its_line_on_a_terminal(repository: Path, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    command = [str(repository / "script" / "predict"), "one-file", "-i", "steps=3"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        while select.select([controller], [], [], 60)[0]:
            try:
                shown += os.read(controller, 4096)
            except OSError:  # on Linux: the other end is closed
                break
        assert process.wait() == 0
    os.close(controller)
    # "0%|", "33%|", "67%|", "100%|" in one line, then one line end, which a terminal writes as \r\n
    bars = shown.partition(b"loading\r\n")[2]
    assert bars.count(b"\r\n") == 1
    assert bars.endswith(b"\r\n")
    assert b"\r33%|" in bars


def test_a_file_is_sent_and_the_output_path_is_chosen(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"a picture")
    (tmp_path / "there").mkdir()
    for path, written in [("out.mov", "out.mov"), ("out", "out.mp4"), ("there", "there/one-file.mp4")]:
        done = predict(repository, tmp_path, "one-file", "-i", "image=@in.png", "-o", path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / written).read_bytes() == b"from a picture"


def test_several_outputs_get_an_index(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "several-files", "-i", "words=a", "-i", "words=b", "-o", "clip.gif")
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"clip.0.gif": "a", "clip.1.gif": "b"}


def test_invalid_input_of_a_model_that_yields_files_exits_2(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "several-files", "-i", "words=a", "-i", "words=")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "a word is empty")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_the_models_name_does_not_hide_the_clip(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "one-file").mkdir()
    assert predict(repository, tmp_path, "one-file").returncode == 0
    assert (tmp_path / "one-file.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        (["-i", "steps=101", "-i", "mood=x"], ["mood is not an input; did you mean mode?", "steps=101 is greater"]),
        (["-i", "image=@nowhere"], ["image: nowhere cannot be read"]),
        (["--json", "{"], ["--json: not JSON"]),
        (["-o", "nowhere/clip.mp4"], ["-o nowhere/clip.mp4: there is no directory nowhere"]),
        (["--weights", "nowhere"], ["--weights nowhere: it is demo, full, or a directory"]),
        (["-i", "mode=refuse"], ["width=3 is odd; try 4", "seed=-1 is out of range"]),  # from the model
        # from the server, which answers 400 with a text
        (["-i", f"seed={'9' * 400}"], ["Failed to parse the request body as JSON: "]),
    ],
)
def test_invalid_inputs_are_one_line_each(
    repository: Path, tmp_path: Path, arguments: list[str], starts: list[str]
) -> None:
    done = predict(repository, tmp_path, "one-file", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    shown = [line for line in lines if "%|" not in line and line != "loading" and "--server" not in line]
    for line, start in zip(sorted(shown), sorted(starts), strict=True):
        assert line.startswith(start)
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_a_failed_prediction_has_no_prefix_of_cog(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "one-file", "-i", "mode=fail")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: an error of the model"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["loading", "0%|"])
def test_an_interrupt_cancels_and_leaves_nothing(repository: Path, tmp_path: Path, number: int, when: str) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environ = {**os.environ, "TMPDIR": str(temporary)}
    command = [str(repository / "script" / "predict"), "one-file", "-i", "steps=100", "-i", "seconds=0.5"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        assert any(when in line for line in process.stderr)
        process.send_signal(number)
        assert process.stderr.read().splitlines()[-1] == "cancelled"
        assert process.stdout.read() == ""
        assert process.wait() == 130
    assert processes_with(f"TMPDIR={temporary}") == []
    assert list(temporary.iterdir()) == []
    assert list(tmp_path.iterdir()) == [temporary]


def test_a_missing_schema_names_the_command_that_writes_it(changed_repository: Path, tmp_path: Path) -> None:
    (changed_repository / "one-file" / "openapi.json").unlink()
    done = predict(changed_repository, tmp_path, "one-file")
    assert done.returncode == 1
    assert done.stderr.endswith("one-file/openapi.json is missing; run: script/schema one-file\n")
