"""The promises of both formats, and the content of an MP4, as ffprobe, ffmpeg and the bytes of the file show them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pictures
import pytest
from cancels import Cancelled, cancelled_at_every_moment
from processes import wait_until_ended
from programs import needs
from videokit.errors import InvalidInput, VideokitError
from videokit.video.encode import Clip, encode_gif, encode_mp4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videokit.video.frames import Frame

both_formats = pytest.mark.parametrize(
    ("encode", "suffix"), [(encode_mp4, "mp4"), (encode_gif, "gif")], ids=["mp4", "gif"]
)


def ffprobe(path: Path) -> dict:
    fields = "stream=codec_name,profile,pix_fmt,width,height,nb_read_frames,r_frame_rate,avg_frame_rate,duration"
    fields += ",color_primaries,color_transfer,color_space,color_range:format_tags"
    command = [needs("ffprobe"), "-v", "error", "-count_frames", "-show_entries", fields, "-of", "json", path]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def decode_with_ffmpeg(clip: Clip) -> np.ndarray:
    """Return the frames, (F, H, W, 3), as the ffmpeg program converts them from BT.709's limited range."""
    convert = "scale=in_color_matrix=bt709:in_range=tv:flags=bicubic+accurate_rnd+full_chroma_int"
    command = [needs("ffmpeg"), "-v", "error", "-i", clip.path, "-vf", convert, "-f", "rawvideo", "-pix_fmt", "rgb24"]
    raw = subprocess.run([*command, "-"], check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, clip.height, clip.width, 3)


def resources() -> tuple[int, int, list[str]]:
    """Return the number of this process's threads and open files, and the ids of its children."""
    task = Path("/proc/self/task")
    children = [child for path in task.glob("*/children") for child in path.read_text().split()]
    return len(list(task.iterdir())), len(list(Path("/proc/self/fd").iterdir())), children


def test_an_mp4_has_the_format_that_browsers_play(tmp_path: Path) -> None:
    encode_mp4(pictures.natural(16, 512, 256), tmp_path / "clip.mp4", fps=8)
    assert ffprobe(tmp_path / "clip.mp4")["streams"] == [
        {
            **{"codec_name": "h264", "profile": "High", "pix_fmt": "yuv420p", "width": 512, "height": 256},
            **{"color_range": "tv", "color_space": "bt709", "color_transfer": "bt709", "color_primaries": "bt709"},
            **{"r_frame_rate": "8/1", "avg_frame_rate": "8/1", "duration": "2.000000", "nb_read_frames": "16"},
        }
    ]


@pytest.mark.parametrize(
    ("fps", "expected"), [(24, "24/1"), (Fraction(30000, 1001), "30000/1001"), (Fraction(1, 2), "1/2")]
)
def test_the_frame_rate_of_an_mp4_is_exact(tmp_path: Path, fps: int | Fraction, expected: str) -> None:
    clip = encode_mp4(pictures.gradient(5, 64, 64), tmp_path / "clip.mp4", fps=fps)
    (stream,) = ffprobe(clip.path)["streams"]
    assert (stream["avg_frame_rate"], stream["nb_read_frames"]) == (expected, "5")
    assert float(stream["duration"]) == pytest.approx(clip.duration, abs=1e-6)


def test_a_clip_of_one_frame_lasts_one_frame(tmp_path: Path) -> None:
    encode_mp4(pictures.gradient(1, 64, 64), tmp_path / "clip.mp4", fps=8)
    (stream,) = ffprobe(tmp_path / "clip.mp4")["streams"]
    assert (stream["duration"], stream["nb_read_frames"]) == ("0.125000", "1")


def test_the_index_of_an_mp4_comes_before_its_media_data(tmp_path: Path) -> None:
    content = encode_mp4(pictures.gradient(4, 64, 64), tmp_path / "clip.mp4", fps=8).path.read_bytes()
    boxes, at = [], 0
    while at < len(content):  # ISO 14496-12, 4.2: size in four bytes, type in four
        boxes.append(content[at + 4 : at + 8])
        at += int.from_bytes(content[at : at + 4], "big")
    assert boxes.index(b"moov") < boxes.index(b"mdat")


def test_decoded_frames_have_a_psnr_of_40_db(tmp_path: Path) -> None:
    frames = np.stack(list(pictures.natural(16)))
    out = decode_with_ffmpeg(encode_mp4(frames, tmp_path / "clip.mp4", fps=8))
    assert min(pictures.psnr(a, b) for a, b in zip(frames, out, strict=True)) >= 40


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)])
def test_pure_colours_are_decoded_with_the_matrix_in_the_tags(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    frames = np.full((4, 64, 64, 3), colour, np.uint8)
    out = decode_with_ffmpeg(encode_mp4(frames, tmp_path / "clip.mp4", fps=8)).astype(int)
    # One level of limited-range luma or chroma is about two levels of RGB. BT.601's matrix would differ by up to 30.
    assert np.abs(out - frames).max() <= 4


def test_two_odd_sides_raise_one_error_before_a_file_exists(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as raised:
        encode_mp4(np.zeros((2, 15, 17, 3), np.uint8), tmp_path / "clip.mp4", fps=8)
    assert raised.value.faults == (
        "width=17 is not a multiple of 2; try 16 or 18",
        "height=15 is not a multiple of 2; try 14 or 16",
    )
    assert list(tmp_path.iterdir()) == []


@both_formats
def test_an_empty_clip_is_an_error(encode, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        encode([], tmp_path / f"clip.{suffix}", fps=8)
    assert list(tmp_path.iterdir()) == []


@both_formats
@pytest.mark.parametrize("fps", [0, -1])
def test_an_fps_of_zero_or_less_raises_invalid_input(encode, suffix: str, fps: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"fps={fps} "):
        encode(pictures.gradient(2, 16, 16), tmp_path / f"clip.{suffix}", fps=fps)


@both_formats
def test_the_clip_describes_the_file(encode, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{suffix}"
    clip = encode(pictures.gradient(5, 64, 32), path, fps=10)
    assert clip == Clip(path, num_frames=5, width=64, height=32, fps=Fraction(10), size=path.stat().st_size)
    assert clip.duration == 0.5


@both_formats
def test_a_path_may_be_relative_and_have_any_characters(encode, suffix: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(f"data:clips 100%d é/a ' clip.{suffix}")
    path.parent.mkdir()
    assert encode(pictures.gradient(2, 16, 16), path, fps=8).path == path
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@both_formats
def test_frames_may_be_views_of_one_array_that_the_generator_overwrites(encode, suffix: str, tmp_path: Path) -> None:
    def views_of_one_array() -> Iterator[Frame]:
        array = np.empty((32, 64, 3), np.uint8)
        for frame in pictures.hues(40, 64, 32):
            array[:, ::-1] = frame
            yield array[:, ::-1]

    separate = encode(pictures.hues(40, 64, 32), tmp_path / f"separate.{suffix}", fps=10).path
    views = encode(views_of_one_array(), tmp_path / f"views.{suffix}", fps=10).path
    assert views.read_bytes() == separate.read_bytes()


ENCODE_IN_A_FRESH_PROCESS = """
import sys
from pathlib import Path
import pictures
from videokit.video.encode import encode_gif, encode_mp4
encode = encode_mp4 if sys.argv[1] == "mp4" else encode_gif
encode(pictures.natural(24, 192, 128), Path(sys.argv[2]), fps=8)
"""


def run_in_fresh_process(code: str, *arguments: object, before: tuple[str, ...] = (), **environment: str) -> str:
    path = os.pathsep.join(path for path in sys.path if path)
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=variables).stdout


@both_formats
def test_the_same_frames_give_the_same_bytes_in_any_process_and_on_any_number_of_cores(
    encode, suffix: str, tmp_path: Path
) -> None:
    names = ("here", "again", "fresh", "one_core", "dirty_memory")
    here, again, fresh, one_core, dirty_memory = paths = [tmp_path / f"{name}.{suffix}" for name in names]
    encode(pictures.natural(24, 192, 128), here, fps=8)
    encode(list(pictures.natural(24, 192, 128)), again, fps=8)
    run_in_fresh_process(ENCODE_IN_A_FRESH_PROCESS, suffix, fresh)
    run_in_fresh_process(ENCODE_IN_A_FRESH_PROCESS, suffix, one_core, before=(needs("taskset"), "-c", "0"))
    # mallopt(3), M_PERTURB: new memory is filled with this byte, which shows reads of uninitialised memory.
    run_in_fresh_process(ENCODE_IN_A_FRESH_PROCESS, suffix, dirty_memory, MALLOC_PERTURB_="1")
    assert len({path.read_bytes() for path in paths}) == 1


ENCODE_700_FRAMES = """
import re, resource, sys
from pathlib import Path
import numpy as np
from videokit.video.encode import encode_gif, encode_mp4

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])  # proc(5), in kB

encode = encode_mp4 if sys.argv[1] == "mp4" else encode_gif
scene = np.zeros((512, 1024, 3), np.uint8)
scene[100:200, 600:700] = 255, 0, 0
frames = (scene[:, index % 512 : index % 512 + 512] for index in range(700))
start = peak()
encode(frames, Path(sys.argv[2]), fps=8)
print(peak() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)  # of the largest one
"""


@both_formats
def test_700_frames_of_512x512_take_less_than_300_mb_of_memory(encode, suffix: str, tmp_path: Path) -> None:
    own, child = map(int, run_in_fresh_process(ENCODE_700_FRAMES, suffix, tmp_path / f"clip.{suffix}").split())
    # The processes of a GIF run one after the other. The frames together are 551 MB.
    assert 1024 * (own + child) < 300e6


@both_formats
@pytest.mark.parametrize("error", [RuntimeError, BrokenPipeError, Cancelled])
@pytest.mark.parametrize("at", [0, 1, 30])
def test_an_error_of_the_generator_leaves_the_old_file_and_no_process(
    encode, suffix: str, error, at: int, tmp_path: Path
) -> None:
    def frames() -> Iterator[Frame]:
        yield from pictures.gradient(at, 64, 64)
        raise error("halfway")

    target = tmp_path / f"clip.{suffix}"
    target.write_text("old")
    before = resources()
    with pytest.raises(error, match="halfway"):
        encode(frames(), target, fps=8)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.read_text() == "old"
    assert resources() == before


@both_formats
def test_an_error_of_ffmpeg_raises_its_message_and_leaves_no_file_and_no_process(
    encode, suffix: str, tmp_path: Path
) -> None:
    # More pixels in a row than either encoder takes: x264 16384, GIF 65535. The MP4 is endless; a GIF cannot be,
    # because all its frames are stored first.
    wide = np.zeros((2, 65538, 3), np.uint8)
    before = resources()
    with pytest.raises(VideokitError, match=r"65538x2|above 65535x65535"):
        encode(repeat(wide) if suffix == "mp4" else repeat(wide, 3), tmp_path / f"clip.{suffix}", fps=8)
    assert list(tmp_path.iterdir()) == []
    assert resources() == before


@both_formats
def test_a_killed_ffmpeg_raises_an_error_and_leaves_no_file(encode, suffix: str, tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        yield from pictures.gradient(8, 64, 64)
        (child,) = set(resources()[2]) - before
        os.kill(int(child), signal.SIGKILL)
        yield from pictures.gradient(8, 64, 64)

    before = set(resources()[2])  # servers of other tests
    with pytest.raises(VideokitError, match="ffmpeg ended with status -9"):
        encode(frames(), tmp_path / f"clip.{suffix}", fps=8)
    assert list(tmp_path.iterdir()) == []


# A file object that a cancel removes between its constructor and its name warns, and is closed.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@both_formats
def test_a_cancel_at_any_moment_leaves_no_file_and_no_process(encode, suffix: str, tmp_path: Path) -> None:
    def cancel(*_: object) -> None:
        raise Cancelled

    frames = list(pictures.natural(24, 128, 128))
    target = tmp_path / f"clip.{suffix}"
    start = time.perf_counter()
    whole = encode(frames, tmp_path / f"whole.{suffix}", fps=8).path.read_bytes()
    seconds = time.perf_counter() - start
    running = resources()
    before = signal.signal(signal.SIGALRM, cancel)
    try:
        for moment in np.linspace(0.0005, 1.2 * seconds, 30):
            target.unlink(missing_ok=True)
            try:
                signal.setitimer(signal.ITIMER_REAL, moment)
                encode(frames, target, fps=8)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Cancelled:
                pass
            assert resources() == running
            files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
            assert files.pop(f"whole.{suffix}") == whole
            assert files in ({}, {target.name: whole})
    finally:
        signal.signal(signal.SIGALRM, before)


STEPS = ("video/encode.py", "video/ffmpeg.py", "video/frame_store.py", "videokit/files.py", "/contextlib.py")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@both_formats
def test_a_cancel_at_any_bytecode_leaves_no_file_and_no_process(encode, suffix: str, tmp_path: Path) -> None:
    frames, target = list(pictures.gradient(3, 16, 16)), tmp_path / f"clip.{suffix}"
    whole = encode(frames, target, fps=8).path.read_bytes()
    running = resources()
    target.unlink()
    for number in cancelled_at_every_moment(lambda: encode(frames, target, fps=8), STEPS):
        assert resources() == running, number
        assert [path.read_bytes() for path in tmp_path.iterdir()] in ([], [whole]), number
        target.unlink(missing_ok=True)
    assert number > 200


ENCODE_FOREVER = """
import sys
from itertools import cycle
from pathlib import Path
import pictures
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.frame_store import FrameStore

def frames():
    yield from stored * 40
    while sys.argv[1] == "mp4":  # the second process of a GIF starts after the last frame
        yield from stored

FrameStore.__iter__ = lambda _: cycle(stored)  # and gets frames until it is killed
stored = list(pictures.natural(8, 256, 256))
print("ready", flush=True)
(encode_mp4 if sys.argv[1] == "mp4" else encode_gif)(frames(), Path(sys.argv[2]), fps=8)
"""


@both_formats
@pytest.mark.parametrize("path", [os.environ["PATH"], ""], ids=["setpriv", "no_setpriv"])
@pytest.mark.parametrize("milliseconds", [0, 60, 200, 1500])
def test_no_process_is_left_when_the_parent_is_killed(
    encode, suffix: str, path: str, milliseconds: int, tmp_path: Path
) -> None:
    mark = f"TEST_ENCODE={tmp_path}"
    environment = {"PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TEST_ENCODE": str(tmp_path)}
    command = [sys.executable, "-c", ENCODE_FOREVER, suffix, tmp_path / f"clip.{suffix}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        time.sleep(milliseconds / 1000)
        parent.kill()
    wait_until_ended(mark)
    assert not (tmp_path / f"clip.{suffix}").exists()
