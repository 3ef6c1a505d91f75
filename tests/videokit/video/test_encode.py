"""What both formats promise, and what an MP4 is. The judges are ffprobe, ffmpeg, exiftool and the files' own bytes."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from _thread import start_new_thread
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pictures
import pytest
import videokit.video.encode
from programs import needs
from videokit.errors import InvalidInput
from videokit.video.encode import FRAMES_AHEAD, Clip, _in_worker, encode_gif, encode_mp4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videokit.video.frames import Frame

both = pytest.mark.parametrize(("encode", "suffix"), [(encode_mp4, "mp4"), (encode_gif, "gif")], ids=["mp4", "gif"])


class Cancelled(BaseException):
    """As Cog's CancellationException: no Exception, and raised between any two bytecodes."""


def probe(path: Path) -> dict:
    fields = "stream=codec_name,profile,pix_fmt,width,height,nb_read_frames,r_frame_rate,avg_frame_rate,duration"
    fields += ",color_primaries,color_transfer,color_space,color_range:format_tags"
    command = [needs("ffprobe"), "-v", "error", "-count_frames", "-show_entries", fields, "-of", "json", path]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def decoded(clip: Clip) -> np.ndarray:
    """Decode with the ffmpeg program, told to convert from BT.709's limited range, into (F, H, W, 3)."""
    convert = "scale=in_color_matrix=bt709:in_range=tv:flags=bicubic+accurate_rnd+full_chroma_int"
    command = [needs("ffmpeg"), "-v", "error", "-i", clip.path, "-vf", convert, "-f", "rawvideo", "-pix_fmt", "rgb24"]
    raw = subprocess.run([*command, "-"], check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, clip.height, clip.width, 3)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def threads() -> int:
    """Count this process's threads, libav's and x264's included."""
    return len(list(Path("/proc/self/task").iterdir()))


def settles_at(count: int) -> bool:
    """Tell whether there are `count` threads again, once the system has cleared away those that have ended."""
    deadline = time.monotonic() + 10
    while threads() != count and time.monotonic() < deadline:
        time.sleep(0.001)
    return threads() == count


def test_an_mp4_is_what_browsers_play_with_exact_frames_and_rate(tmp_path: Path) -> None:
    encode_mp4(pictures.natural(16, 512, 256), tmp_path / "clip.mp4", fps=8)
    assert probe(tmp_path / "clip.mp4")["streams"] == [
        {
            **{"codec_name": "h264", "profile": "High", "pix_fmt": "yuv420p", "width": 512, "height": 256},
            **{"color_range": "tv", "color_space": "bt709", "color_transfer": "bt709", "color_primaries": "bt709"},
            **{"r_frame_rate": "8/1", "avg_frame_rate": "8/1", "duration": "2.000000", "nb_read_frames": "16"},
        }
    ]


@pytest.mark.parametrize(
    ("fps", "said"), [(24, "24/1"), (Fraction(30000, 1001), "30000/1001"), (Fraction(1, 2), "1/2")]
)
def test_the_frame_rate_of_an_mp4_is_exact(tmp_path: Path, fps: int | Fraction, said: str) -> None:
    clip = encode_mp4(pictures.gradient(5, 64, 64), tmp_path / "clip.mp4", fps=fps)
    (stream,) = probe(clip.path)["streams"]
    assert (stream["avg_frame_rate"], stream["nb_read_frames"]) == (said, "5")
    assert float(stream["duration"]) == pytest.approx(clip.duration, abs=1e-6)


def test_a_clip_of_one_frame_lasts_one_frame(tmp_path: Path) -> None:
    encode_mp4(pictures.gradient(1, 64, 64), tmp_path / "clip.mp4", fps=8)
    (stream,) = probe(tmp_path / "clip.mp4")["streams"]
    assert (stream["duration"], stream["nb_read_frames"]) == ("0.125000", "1")


def test_the_index_of_an_mp4_comes_before_its_media_data(tmp_path: Path) -> None:
    content = encode_mp4(pictures.gradient(4, 64, 64), tmp_path / "clip.mp4", fps=8).path.read_bytes()
    boxes, at = [], 0
    while at < len(content):  # ISO 14496-12, 4.2: size in four bytes, type in four
        boxes.append(content[at + 4 : at + 8])
        at += int.from_bytes(content[at : at + 4], "big")
    assert boxes.index(b"moov") < boxes.index(b"mdat")


def test_decoded_frames_are_within_40_db_of_what_went_in(tmp_path: Path) -> None:
    frames = np.stack(list(pictures.natural(16)))
    out = decoded(encode_mp4(frames, tmp_path / "clip.mp4", fps=8))
    assert min(psnr(a, b) for a, b in zip(frames, out, strict=True)) >= 40


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)])
def test_pure_colours_survive_because_the_matrix_is_the_one_the_tags_name(
    tmp_path: Path, colour: tuple[int, int, int]
) -> None:
    frames = np.full((4, 64, 64, 3), colour, np.uint8)
    out = decoded(encode_mp4(frames, tmp_path / "clip.mp4", fps=8)).astype(int)
    # one level of limited-range luma or chroma is up to about two levels of RGB; BT.601's matrix is off by up to 30
    assert np.abs(out - frames).max() <= 4


def test_odd_sides_are_refused_together_before_a_file_exists(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        encode_mp4(np.zeros((2, 15, 17, 3), np.uint8), tmp_path / "clip.mp4", fps=8)
    assert refused.value.faults == (
        "width=17 is not a multiple of 2; try 16 or 18",
        "height=15 is not a multiple of 2; try 14 or 16",
    )
    assert list(tmp_path.iterdir()) == []


@both
def test_no_frames_are_an_error_and_no_file(encode, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        encode([], tmp_path / f"clip.{suffix}", fps=8)
    assert list(tmp_path.iterdir()) == []


@both
@pytest.mark.parametrize("fps", [0, -1])
def test_a_rate_that_is_not_above_zero_is_refused(encode, suffix: str, fps: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"fps={fps} is"):
        encode(pictures.gradient(2, 16, 16), tmp_path / f"clip.{suffix}", fps=fps)


@both
def test_the_clip_describes_the_file(encode, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{suffix}"
    clip = encode(pictures.gradient(5, 64, 32), path, fps=10)
    assert clip == Clip(path, num_frames=5, width=64, height=32, fps=Fraction(10), size=path.stat().st_size)
    assert clip.duration == 0.5


@both
def test_a_path_may_be_relative_and_have_any_letters(encode, suffix: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(f"data:clips 100%d é/a ' clip.{suffix}")
    path.parent.mkdir()
    assert encode(pictures.gradient(2, 16, 16), path, fps=8).path == path
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@both
def test_frames_may_be_views_and_may_be_overwritten_after_they_were_taken(encode, suffix: str, tmp_path: Path) -> None:
    def from_one_array() -> Iterator[Frame]:
        array = np.empty((32, 64, 3), np.uint8)
        for frame in pictures.hues(40, 64, 32):
            array[:, ::-1] = frame
            yield array[:, ::-1]

    plain = encode(pictures.hues(40, 64, 32), tmp_path / f"plain.{suffix}", fps=10)
    assert encode(from_one_array(), tmp_path / f"one.{suffix}", fps=10).path.read_bytes() == plain.path.read_bytes()


ENCODE_IN_A_FRESH_PROCESS = """
import sys
from pathlib import Path
import pictures
from videokit.video.encode import encode_gif, encode_mp4
encode = encode_mp4 if sys.argv[1] == "mp4" else encode_gif
encode(pictures.natural(24, 192, 128), Path(sys.argv[2]), fps=8)
"""


def in_fresh_process(code: str, *arguments: object, before: tuple[str, ...] = (), **environment: str) -> str:
    path = os.pathsep.join(path for path in sys.path if path)
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=variables).stdout


@both
def test_the_same_frames_give_the_same_bytes_in_any_process_and_on_any_number_of_cores(
    encode, suffix: str, tmp_path: Path
) -> None:
    names = ("here", "again", "fresh", "one_core", "dirty_memory")
    here, again, fresh, one_core, dirty_memory = paths = [tmp_path / f"{name}.{suffix}" for name in names]
    encode(pictures.natural(24, 192, 128), here, fps=8)
    encode(list(pictures.natural(24, 192, 128)), again, fps=8)
    in_fresh_process(ENCODE_IN_A_FRESH_PROCESS, suffix, fresh)
    in_fresh_process(ENCODE_IN_A_FRESH_PROCESS, suffix, one_core, before=(needs("taskset"), "-c", "0"))
    # mallopt(3), M_PERTURB: new memory is filled with these bits, so that what reads it before writing shows
    in_fresh_process(ENCODE_IN_A_FRESH_PROCESS, suffix, dirty_memory, MALLOC_PERTURB_="1")
    assert len({path.read_bytes() for path in paths}) == 1


ENCODE_2000_FRAMES = """
import sys
from pathlib import Path
import av
import numpy as np
from videokit.video.encode import encode_gif, encode_mp4

def kilobytes(field):
    return int(next(line for line in Path("/proc/self/status").open() if line.startswith(field)).split()[1])

encode = encode_mp4 if sys.argv[1] == "mp4" else encode_gif
scene = np.zeros((512, 1024, 3), np.uint8)
scene[100:200, 600:700] = 255, 0, 0
frames = (scene[:, index % 512 : index % 512 + 512] for index in range(2000))
start = kilobytes("VmRSS")
encode(frames, Path(sys.argv[2]), fps=8)
print(kilobytes("VmHWM") - start)
"""


@both
def test_2000_frames_of_512x512_stay_under_300_mb_of_memory(encode, suffix: str, tmp_path: Path) -> None:
    grown = int(in_fresh_process(ENCODE_2000_FRAMES, suffix, tmp_path / f"clip.{suffix}"))
    assert grown < 300_000  # the frames together are 1 572 864 kB


@both
@pytest.mark.parametrize("error", [RuntimeError, Cancelled])
@pytest.mark.parametrize("at", [0, 1, 30])
def test_an_error_of_the_generator_leaves_nothing_behind(encode, suffix: str, error, at: int, tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        yield from pictures.gradient(at, 64, 64)
        raise error("on the way")

    target = tmp_path / f"clip.{suffix}"
    target.write_text("from before")
    before = threads()
    with pytest.raises(error, match="on the way") as raised:
        encode(frames(), target, fps=8)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.read_text() == "from before"
    del raised  # its traceback holds the encoder
    assert settles_at(before)


@both
def test_an_error_of_the_encoder_reaches_the_caller_and_leaves_nothing_behind(
    encode, suffix: str, tmp_path: Path
) -> None:
    before = threads()
    with pytest.raises(av.FFmpegError) as raised:
        # more pixels in a row than either format's encoder takes: x264 16384, GIF 65535
        encode(np.zeros((3, 2, 65538, 3), np.uint8), tmp_path / f"clip.{suffix}", fps=8)
    assert list(tmp_path.iterdir()) == []
    del raised
    assert settles_at(before)


@both
def test_a_cancel_at_any_moment_leaves_no_file_and_no_thread(encode, suffix: str, tmp_path: Path) -> None:
    def cancel(*_: object) -> None:
        raise Cancelled

    frames = list(pictures.natural(24, 128, 128))
    target = tmp_path / f"clip.{suffix}"
    whole = encode(frames, tmp_path / f"whole.{suffix}", fps=8).path.read_bytes()
    running = threads()
    before = signal.signal(signal.SIGALRM, cancel)
    try:
        for milliseconds in range(1, 200, 5):
            target.unlink(missing_ok=True)
            try:
                signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
                encode(frames, target, fps=8)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Cancelled:
                pass
            left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
            assert left.pop(f"whole.{suffix}") == whole
            assert left in ({}, {target.name: whole})
            assert settles_at(running)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_cancel_that_strikes_the_worker_as_it_starts_reaches_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python 3.11 lists a new thread under its parent's number till the system runs it: a cancel goes to it then
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def start(*work: Any) -> int:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(60)  # the thread waits for the interpreter meanwhile
        ident = start_new_thread(*work)
        while not set_exception(ctypes.c_ulong(ident), ctypes.py_object(Cancelled)):
            pass
        sys.setswitchinterval(interval)
        return ident

    monkeypatch.setattr(videokit.video.encode, "start_new_thread", start)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            encode_mp4(np.zeros((20, 2, 2, 3), np.uint8), tmp_path / "clip.mp4", fps=8)
        except BaseException as error:
            ended.append(error)

    caller = threading.Thread(target=run, daemon=True)
    caller.start()
    caller.join(20)
    assert [type(error) for error in ended] == [Cancelled]
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_works_while_the_caller_draws() -> None:
    received = threading.Event()

    def frames() -> Iterator[Frame]:
        yield np.zeros((2, 2, 3), np.uint8)
        assert received.wait(30), "the first frame was not handed over before the second was drawn"
        yield np.ones((2, 2, 3), np.uint8)

    taken = []

    def consume(index: int, frame: Frame) -> None:
        received.set()
        taken.append((index, int(frame.max()), threading.current_thread() is threading.main_thread()))

    assert _in_worker(frames(), consume) == 2
    assert taken == [(0, 0, False), (1, 1, False)]


def test_no_more_than_a_few_frames_are_drawn_ahead_of_the_encoder() -> None:
    drawn, waiting = 0, []

    def frames() -> Iterator[Frame]:
        nonlocal drawn
        for drawn in range(1, 101):  # noqa: B007
            yield np.zeros((2, 2, 3), np.uint8)

    def consume(index: int, frame: Frame) -> None:
        waiting.append(drawn - index)

    assert _in_worker(frames(), consume) == 100
    assert max(waiting) <= FRAMES_AHEAD + 1


def test_after_an_error_of_the_worker_no_more_than_the_waiting_frames_are_drawn() -> None:
    drawn = 0

    def frames() -> Iterator[Frame]:
        nonlocal drawn
        for drawn in range(1, 101):  # noqa: B007
            yield np.zeros((2, 2, 3), np.uint8)

    def consume(index: int, frame: Frame) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        _in_worker(frames(), consume)
    assert drawn <= FRAMES_AHEAD + 1
