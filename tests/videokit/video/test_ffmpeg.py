"""The processes of the ffmpeg program: which program is used, and that none is left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_videos import draw_number, write_clip
from processes import processes_with, wait_until_ended
from programs import needs
from videokit.errors import VideokitError
from videokit.video import ffmpeg
from videokit.video.decode import decode
from videokit.video.ffmpeg import Process

ENDLESS = ["-re", "-f", "lavfi", "-i", "testsrc2=size=64x48", "-f", "rawvideo", "pipe:1"]


@pytest.fixture(autouse=True)
def _program_is_found_again() -> None:
    ffmpeg.program.cache_clear()


def children() -> list[str]:
    """Return the commands of this process's children that run ffmpeg or will, ended ones too."""
    commands = subprocess.check_output(["ps", "-o", "comm=", "--ppid", str(os.getpid())], text=True).split()
    return [command for command in commands if command.startswith(("ffmpeg", "setpriv"))]


def test_the_program_is_that_of_the_package() -> None:
    program = ffmpeg.program()
    assert "imageio_ffmpeg" in program.path
    assert program.version.startswith("n9")


def test_an_older_program_is_refused_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", needs("ffmpeg"))
    with pytest.raises(VideokitError, match=r"is ffmpeg version 5\..*; ffmpeg 8 or newer is needed.*pip install"):
        ffmpeg.program()


@pytest.mark.parametrize("path", ["/missing/ffmpeg", "/bin/true"])
def test_another_program_is_refused_with_what_is_needed(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", path)
    with pytest.raises(VideokitError, match="ffmpeg 8 or newer is needed"):
        ffmpeg.program()


def test_an_error_in_the_block_ends_the_process() -> None:
    with pytest.raises(ZeroDivisionError), Process(ENDLESS) as process:
        assert process.stdout.read(100)
        1 / 0  # noqa: B018
    assert children() == []


def test_a_process_without_output_ends_at_its_limit_of_wall_clock_time() -> None:
    with pytest.raises(TimeoutError), Process([*ENDLESS[:-2], "null", "-"], seconds=0.5) as process:
        process.stdout.read()
    assert children() == []


def test_a_process_ends_at_its_limit_of_processor_time() -> None:
    if not hasattr(resource, "prlimit"):
        pytest.skip("Linux sets limits of a process that runs")
    endless = ["-f", "lavfi", "-i", "testsrc2=size=1920x1080", "-f", "null", "-"]
    with Process(endless, limits=[(resource.RLIMIT_CPU, 1)]) as process:
        assert process.wait() == -signal.SIGKILL


def test_a_process_reads_what_is_written_and_reports_what_it_printed() -> None:
    raw = ["-f", "rawvideo", "-video_size", "64x48", "-pixel_format", "rgb24", "-i", "pipe:0"]
    with Process([*raw, "-f", "framecrc", "pipe:1"], loglevel="info") as process:
        for index in range(3):
            process.stdin.write(draw_number(index).tobytes())
        assert process.wait() == 0
        assert process.stdout.read().count(b"\n0,") == 3
        assert "Input #0, rawvideo" in process.log()


CANCEL = """
import os, random, signal, sys, time
from pathlib import Path
from videokit.video.decode import decode
class Cancelled(BaseException): pass
def cancel(*_):
    raise Cancelled
signal.signal(signal.SIGALRM, cancel)
list(decode(Path(sys.argv[1]), num_frames=4, width=64, height=48))
descriptors = len(os.listdir("/proc/self/fd"))
cancelled = 0
for index in range(120):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005 + index * 0.001)
        list(decode(Path(sys.argv[1]), num_frames=4, width=64, height=48))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Cancelled:
        cancelled += 1
    try:
        os.waitpid(-1, os.WNOHANG)
        sys.exit(f"a child is left after {index} ms")
    except ChildProcessError:
        pass
print(cancelled, len(os.listdir("/proc/self/fd")) - descriptors)
"""


def test_a_cancel_at_any_millisecond_leaves_no_process_and_no_open_file(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [draw_number(index) for index in range(30)])
    done = subprocess.run([sys.executable, "-c", CANCEL, clip], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    cancelled, descriptors = map(int, done.stdout.split())
    assert cancelled > 30
    assert descriptors == 0


def test_closing_the_frames_early_ends_the_process(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [draw_number(index, 640, 480) for index in range(60)])
    frames = decode(clip, num_frames=60, width=640, height=480)
    next(frames)
    assert len(children()) == 1
    frames.close()
    assert children() == []


@pytest.mark.parametrize("setpriv", ["True", "False"])
def test_a_parent_that_is_killed_leaves_no_process(setpriv: str) -> None:
    mark = f"FFMPEG_TEST={os.getpid()}.{setpriv}"
    code = (
        "import dataclasses\nfrom videokit.video import ffmpeg\n"
        f"program = dataclasses.replace(ffmpeg.program(), setpriv=ffmpeg.program().setpriv and {setpriv})\n"
        "ffmpeg.program = lambda: program\n"
        f"with ffmpeg.Process({ENDLESS}) as process:\n"
        "    process.stdout.read(1)\n    print(flush=True)\n    while True: process.stdout.read(9000)\n"
    )
    environ = {**os.environ, **dict([mark.split("=")])}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        parent.stdout.readline()
        assert len(processes_with(mark)) == 2
        parent.kill()
        parent.wait()
    wait_until_ended(mark)
