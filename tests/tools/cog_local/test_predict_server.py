"""Specification of script/predict --server: a running script/serve makes the prediction, with the same results."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from called_scripts import predict, serving


@pytest.fixture(scope="module")
def url(repository: Path) -> Iterator[str]:
    """Return the address of a running script/serve."""
    with serving(repository, stderr=subprocess.DEVNULL) as (_, address):
        yield address


def test_output_and_report_are_those_of_a_run_without_a_server(repository: Path, url: str, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"a picture")
    arguments = ["one-file", "-i", "seed=5", "-i", "steps=40", "-i", "image=@in.png"]
    alone = predict(repository, tmp_path, *arguments)
    content = (tmp_path / "one-file.mp4").read_bytes()
    (tmp_path / "one-file.mp4").unlink()
    done = predict(repository, tmp_path, *arguments, "-v", "--server", url)
    assert done.stdout == alone.stdout
    assert (tmp_path / "one-file.mp4").read_bytes() == content
    assert done.stderr.splitlines()[-1].startswith("100%|")


def test_several_outputs_get_an_index(repository: Path, url: str, tmp_path: Path) -> None:
    predict(repository, tmp_path, "several-files", "-i", "words=a", "-i", "words=b", "-o", "c.gif", "--server", url)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"c.0.gif": "a", "c.1.gif": "b"}


def test_invalid_inputs_exit_2(repository: Path, url: str, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "several-files", "-i", "words=a", "-i", "words=", "--server", url, status=2)
    assert done.stderr == "a word is empty\n"


def test_weights_belong_to_the_server(repository: Path, url: str, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "one-file", "--weights", "full", "--server", url, status=2)
    assert "script/serve --weights full" in done.stderr


def test_an_address_without_http_is_refused_with_what_to_write(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "one-file", "--server", "127.0.0.1:8000", status=2)
    assert done.stderr == "--server 127.0.0.1:8000: write http:// or https:// first\n"


def test_a_server_that_does_not_answer_exits_1_with_the_command_that_starts_one(
    repository: Path, tmp_path: Path
) -> None:
    done = predict(repository, tmp_path, "one-file", "--server", "http://127.0.0.1:9", status=1)
    assert done.stderr.endswith("start it with script/serve\n")


def test_ctrl_c_cancels_the_prediction_at_the_server(repository: Path, url: str, tmp_path: Path) -> None:
    command = [repository / "script" / "predict", "one-file", "--server", url]
    arguments = ["-i", "steps=100", "-i", "seconds=1", "-v"]
    with subprocess.Popen([*command, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.strip().startswith("0%") for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    deadline = time.monotonic() + 60
    while subprocess.run([*command, "-i", "steps=1"], cwd=tmp_path, check=False).returncode:
        assert time.monotonic() < deadline
