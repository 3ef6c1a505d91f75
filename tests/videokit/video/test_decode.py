"""Decoding: which pictures become frames, how they look, how much is read, and what happens to hostile files."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import hostile_videos
import numpy as np
import pytest
from hostile_videos import draw_number, read_number, write_clip
from PIL import Image, ImageOps
from programs import needs
from videokit.errors import InvalidInput
from videokit.video.decode import decode, probe


def numbers(path: Path, num_frames: int) -> list[int]:
    return [read_number(frame) for frame in decode(path, num_frames=num_frames, width=64, height=48)]


def only_frame(path: Path, width: int, height: int) -> np.ndarray:
    (frame,) = decode(path, num_frames=1, width=width, height=height)
    return frame


# Selection of pictures

KINDS = {
    "mp4": {"options": {"bf": "3", "g": "12"}},
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "fragments.mp4": {"options": {"g": "12"}, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mkv": {"options": {"bf": "3", "g": "12"}},
    "live.mkv": {"options": {"g": "12"}, "container_options": {"live": "1"}},
    "webm": {"codec": "libvpx-vp9", "options": {"g": "12"}},
    "avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "flv": {},
    "ts": {"options": {"bf": "3", "g": "12"}},
    "mpg": {"codec": "mpeg2video", "fps": 25, "options": {"bf": "2"}},
    "h264": {"options": {"bf": "3"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "av1.webm": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "gif": None,
    "apng": None,
}


def write_kind(path: Path, kind: str, count: int) -> Path:
    pictures = [draw_number(index) for index in range(count)]
    if kind not in ("gif", "apng"):
        return write_clip(path.with_suffix(f".{kind}"), pictures, **KINDS[kind])
    images = [Image.fromarray(picture) for picture in pictures]
    path = path.with_suffix(f".{kind}")
    images[0].save(path, {"apng": "PNG"}.get(kind), save_all=True, append_images=images[1:], duration=100)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_n_frames_of_a_clip_of_n_pictures_are_those_pictures(tmp_path: Path, kind: str) -> None:
    assert numbers(write_kind(tmp_path / "clip", kind, 37), 37) == list(range(37))


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="macOS")
def test_a_clip_that_a_test_writes_leaves_the_process_its_priority(tmp_path: Path) -> None:
    write_kind(tmp_path / "clip", "av1.webm", 2)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_frames_are_the_middles_of_equal_parts(tmp_path: Path, kind: str) -> None:
    # Each part has 50 pictures. Its middle is the start of its 25th picture.
    assert numbers(write_kind(tmp_path / "clip", kind, 200), 4) == pytest.approx([25, 75, 125, 175], abs=1)


def test_more_frames_than_pictures_repeat_each_equally_and_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [draw_number(index) for index in range(5)])
    with caplog.at_level(logging.INFO, "videokit"):
        assert numbers(clip, 15) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    (line,) = caplog.messages
    assert line.startswith("decode: 15 frames 64x48 from clip.mp4 (h264 64x48, 0.50 s): 5 different pictures")
    assert "some are repeated" in line


def test_a_clip_with_enough_pictures_is_logged_without_repeats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [draw_number(index) for index in range(9)])
    with caplog.at_level(logging.INFO, "videokit"):
        numbers(clip, 3)
    assert "repeated" not in caplog.text


@pytest.mark.parametrize("num_frames", [1, 7, 40, 100])
@pytest.mark.parametrize("first", [0, -700, 123_456])
def test_a_variable_frame_rate_is_decoded_by_its_times_from_any_start_time(
    tmp_path: Path, first: int, num_frames: int
) -> None:
    times = [0, 40, 55, 900, 1000, 1010, 1020, 2500, 2540, 3100]  # ms
    clip = write_clip(
        tmp_path / "clip.mkv",
        [draw_number(index) for index in range(10)],
        codec="mjpeg",
        pix_fmt="yuvj420p",
        times=[first + time for time in times],
    )
    end = 3200  # Matroska has no duration of the last picture; the stream's rate is 10 a second
    middles = [(i + 0.5) * end / num_frames for i in range(num_frames)]
    assert numbers(clip, num_frames) == [max(n for n in range(10) if times[n] <= middle) for middle in middles]


def test_gif_frames_are_decoded_by_their_durations(tmp_path: Path) -> None:
    images = [Image.fromarray(draw_number(index)) for index in range(4)]
    images[0].save(tmp_path / "clip.gif", save_all=True, append_images=images[1:], duration=[100, 500, 100, 300])
    assert probe(tmp_path / "clip.gif").duration == pytest.approx(1.0)
    assert numbers(tmp_path / "clip.gif", 10) == [0, 1, 1, 1, 1, 1, 2, 3, 3, 3]


def test_a_gif_s_delay_under_two_hundredths_is_a_tenth_of_a_second_as_in_browsers(tmp_path: Path) -> None:
    # Chromium, image-decoders/gif/gif_image_decoder.cc, and Firefox, FrameTimeout: 10 ms and less are 100 ms.
    images = [Image.fromarray(draw_number(index)) for index in range(4)]
    images[0].save(tmp_path / "clip.gif", save_all=True, append_images=images[1:], duration=[20, 10, 0, 80])
    assert probe(tmp_path / "clip.gif").duration == pytest.approx(0.3)
    assert numbers(tmp_path / "clip.gif", 15) == [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3]


def test_pictures_outside_the_edit_list_are_not_used(tmp_path: Path) -> None:
    ffmpeg = needs("ffmpeg")
    write_clip(tmp_path / "long.mp4", [draw_number(index) for index in range(40)], options={"g": "20"})
    # The copy has all pictures; its edit list excludes five.
    cut = ["-ss", "0.5", "-i", "long.mp4", "-c", "copy", "cut.mp4"]
    subprocess.run([ffmpeg, "-v", "error", *cut], cwd=tmp_path, check=True)
    assert numbers(tmp_path / "cut.mp4", 35) == list(range(5, 40))


# Amount of work


def count_bytes_read() -> int:
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's /proc/self/io")
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_eight_frames_of_ten_minutes_read_a_small_share_of_the_file(tmp_path: Path, kind: str) -> None:
    snow = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    pictures = (np.concatenate([draw_number(n, 64, 48), np.roll(snow, n, axis=0)]) for n in range(6000))
    clip = write_clip(
        tmp_path / f"clip.{kind}",
        pictures,
        options={"preset": "ultrafast", "g": "20", "sc_threshold": "0", "crf": "18"},
    )
    probe(clip)  # finds the program, once for all clips
    before = count_bytes_read()
    frames = list(decode(clip, num_frames=8, width=64, height=96))
    share = (count_bytes_read() - before) / clip.stat().st_size
    assert [read_number(frame[:48]) for frame in frames] == [375 + 750 * n for n in range(8)]
    # Eight times two seconds of 600 are 2.7 %. Each of ten processes also reads the index and ahead.
    assert share < 0.25


@pytest.mark.parametrize("kind", ["mp4", "fragments.mp4", "mkv", "webm", "live.mkv"])
def test_seeking_gives_the_same_pictures_as_decoding_all(tmp_path: Path, kind: str) -> None:
    clip = write_kind(tmp_path / "clip", kind, 600)
    with av.open(clip) as container:
        all_numbers = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert all_numbers == list(range(600))
    for num_frames in (3, 7, 16, 29):
        expected = [int((i + 0.5) * 600 / num_frames) for i in range(num_frames)]
        assert numbers(clip, num_frames) == expected


def test_a_clip_with_a_damaged_time_is_refused_and_not_sought_in(tmp_path: Path) -> None:
    clip = write_kind(tmp_path / "clip", "mp4", 1200)
    content = bytearray(clip.read_bytes())
    content[content.find(b"ctts") + 12 + 8 * 1031 + 4] = 186  # the sign of the time of one picture
    clip.write_bytes(content)
    with pytest.raises(InvalidInput, match="an edit list that ffmpeg cannot follow"):
        numbers(clip, 8)


def test_a_clip_with_one_keyframe_is_not_decoded_again_for_each_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"g": "10000", "sc_threshold": "0", "preset": "ultrafast"}
    clip = write_clip(tmp_path / "clip.mp4", (draw_number(n) for n in range(1000)), options=options)
    with caplog.at_level(logging.INFO, "videokit"):
        assert numbers(clip, 10) == [50 + 100 * n for n in range(10)]
    decoded = int(re.search(r"(\d+) decoded", caplog.text)[1])
    assert decoded < 1500  # decoding from the start for each frame would be 5000


def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path: Path) -> None:
    # A picture of 1280x720 takes 1.4 MB decoded and 2.8 MB as RGB.
    for count in (10, 90):
        pictures = (np.full((720, 1280, 3), 2 * n, np.uint8) for n in range(count))
        write_clip(tmp_path / f"{count}.mp4", pictures, options={"preset": "ultrafast"})
    code = (
        "import re, sys; from pathlib import Path; from videokit.video.decode import decode\n"
        "for _ in decode(Path(sys.argv[1]), num_frames=int(sys.argv[2]), width=64, height=64): pass\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    short, long = (
        int(subprocess.check_output([sys.executable, "-c", code, tmp_path / f"{count}.mp4", str(count)]))
        for count in (10, 90)
    )
    assert long - short < 30_000  # kB


def test_checks_are_done_before_the_first_frame_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^clip\.mp4 is not a file; give an MP4"):
        decode(tmp_path / "clip.mp4", num_frames=1, width=64, height=64)
    clip = write_clip(tmp_path / "clip.mp4", [draw_number(0)])
    with pytest.raises(InvalidInput) as raised:
        decode(clip, num_frames=0, width=0, height=9000)
    assert len(raised.value.faults) == 3


def test_closing_the_iterator_early_closes_the_file(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [draw_number(index) for index in range(30)])
    before = len(list(Path("/proc/self/fd").iterdir()))
    frames = decode(clip, num_frames=30, width=64, height=48)
    next(frames)
    assert len(list(Path("/proc/self/fd").iterdir())) > before
    frames.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Appearance


@pytest.mark.parametrize(("width", "height"), [(64, 64), (200, 40), (33, 91), (300, 200), (1, 1)])
def test_a_picture_covers_the_frame_and_is_cropped_at_its_centre(tmp_path: Path, width: int, height: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8))
    image.save(tmp_path / "clip.png")
    frame = only_frame(tmp_path / "clip.png", width, height)
    assert frame.shape == (height, width, 3)
    assert frame.dtype == np.uint8
    expected = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)  # Pillow's own scale and crop
    assert np.abs(frame.astype(int) - np.asarray(expected)).max() <= 1


def test_each_frame_is_a_separate_array(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [draw_number(21)])
    frames = decode(clip, num_frames=2, width=64, height=48)
    next(frames)[:] = 77  # the caller changes a frame; the next one shows the same picture
    assert read_number(next(frames)) == 21


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    def set_pixel_aspect(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    clip = write_clip(tmp_path / "clip.mp4", [draw_number(0b0101001110100101, 64, 128)], prepare=set_pixel_aspect)
    info = probe(clip)
    assert (info.width, info.height) == (128, 128)
    assert read_number(only_frame(clip, 128, 128)) == 0b0101001110100101  # not cropped


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_and_mirroring_match_ffmpeg(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    ffmpeg = needs("ffmpeg")
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    clip = write_clip(
        tmp_path / "clip.mp4",
        [picture],
        codec="libx264rgb",
        pix_fmt="rgb24",
        options={"qp": "0"},
        prepare=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored),
    )
    raw = subprocess.check_output(
        [ffmpeg, "-v", "error", "-i", clip, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    )
    width, height = (48, 64) if degrees in (90, 270) else (64, 48)
    info = probe(clip)
    assert (info.width, info.height) == (width, height)
    assert np.array_equal(only_frame(clip, width, height), np.frombuffer(raw, np.uint8).reshape(height, width, 3))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])  # those of cameras, without mirroring
def test_the_exif_orientation_of_a_photograph_is_applied(tmp_path: Path, orientation: int) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = 200, 130, 60
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "clip.jpg", exif=exif, quality=100)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "clip.jpg")))
    frame = only_frame(tmp_path / "clip.jpg", expected.shape[1], expected.shape[0])
    assert np.abs(frame.astype(int) - expected).max() <= 3


RGB = np.array([200, 100, 50])
# Kr and Kb: ITU-R BT.601-7 2.5.1, BT.709-6 item 3.2, BT.2020-2 table 4
WEIGHTS = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}
TAGS = {"601": 6, "709": 1, "2020": 9, "untagged": 2}  # matrix_coefficients of ITU-T H.273, table 4


def yuv(matrix: str, full: bool, bits: int) -> tuple[int, int, int]:
    """Return the Y, Cb and Cr of RGB (H.273, equations 20 to 25 and 38 to 40)."""
    red, _, blue = RGB / 255
    kr, kb = WEIGHTS[matrix]
    luma = np.dot((kr, 1 - kr - kb, kb), RGB / 255)
    differences = np.array([(blue - luma) / (1 - kb), (red - luma) / (1 - kr)]) / 2
    top, scale = 2**bits - 1, 2 ** (bits - 8)
    if full:
        return tuple(np.round([luma * top, *(differences * top + 2 ** (bits - 1))]).astype(int))
    return tuple(np.round([scale * (219 * luma + 16), *(scale * (224 * differences + 128))]).astype(int))


@pytest.mark.parametrize(
    ("matrix", "tag", "full", "size"),
    [
        ("601", "601", False, (64, 64)),
        ("601", "601", False, (1280, 720)),
        ("709", "709", False, (64, 64)),
        ("2020", "2020", False, (64, 64)),
        ("709", "709", True, (64, 64)),
        ("601", "601", True, (64, 64)),
        ("601", "untagged", False, (720, 576)),
        ("709", "untagged", False, (1280, 720)),
        ("709", "untagged", False, (720, 1280)),
        ("709", "untagged", False, (1280, 534)),
    ],
)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_the_colour_matrix_and_range_are_applied(
    tmp_path: Path, matrix: str, tag: str, full: bool, size: tuple[int, int], pix_fmt: str
) -> None:
    bits = 10 if pix_fmt.endswith("10le") else 8
    frame = av.VideoFrame(*size, pix_fmt)
    for plane, level in zip(frame.planes, yuv(matrix, full, bits), strict=True):
        plane.update(np.full(plane.buffer_size // (1 if bits == 8 else 2), level, "u1" if bits == 8 else "<u2"))
    with av.open(tmp_path / "clip.mkv", "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.colorspace = TAGS[tag]
        stream.codec_context.color_range = frame.color_range = 2 if full else 1
        frame.colorspace = TAGS[tag]
        container.mux([*stream.encode(frame), *stream.encode()])
    decoded = only_frame(tmp_path / "clip.mkv", 16, 16)
    assert np.abs(decoded - RGB).max() <= 2, decoded[0, 0]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("clip.avi", "rawvideo", "bgr24"),
        ("clip.mkv", "ffv1", "bgra"),
        ("clip.mkv", "ffv1", "gbrp10le"),
        ("clip.mp4", "libx264rgb", "rgb24"),
        ("clip.mov", "qtrle", "rgb24"),
        ("clip.mov", "png", "rgb24"),
    ],
)
def test_rgb_of_every_layout_has_the_right_colours(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    options = {"qp": "0"} if codec == "libx264rgb" else {}
    picture = np.broadcast_to(RGB.astype(np.uint8), (48, 64, 3)).copy()
    clip = write_clip(tmp_path / name, [picture], codec=codec, pix_fmt=pix_fmt, options=options)
    assert np.abs(only_frame(clip, 16, 16) - RGB).max() <= 1


def test_a_palette_and_grey_have_the_right_colours(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), tuple(RGB)).convert("P").save(tmp_path / "palette.png")
    expected = np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))[0, 0]
    assert np.array_equal(only_frame(tmp_path / "palette.png", 16, 16)[0, 0], expected)
    Image.new("L", (64, 48), 124).save(tmp_path / "grey.png")
    assert np.all(only_frame(tmp_path / "grey.png", 16, 16) == 124)


def test_transparency_is_composited_over_black(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 48), (200, 100, 50, 51)).save(tmp_path / "clip.png")  # alpha 1/5
    assert np.abs(only_frame(tmp_path / "clip.png", 16, 16) - [40, 20, 10]).max() <= 1
    palette = Image.new("P", (64, 48), 0)
    palette.putpalette([200, 100, 50])
    palette.save(tmp_path / "palette.png", transparency=bytes([51]))
    assert np.abs(only_frame(tmp_path / "palette.png", 16, 16) - [40, 20, 10]).max() <= 1
    transparent = Image.new("P", (64, 48), 0)
    transparent.putpalette([200, 100, 50, 255, 255, 255])
    transparent.paste(1, (0, 0, 32, 48))
    transparent.save(tmp_path / "clip.gif", transparency=1)
    frame = only_frame(tmp_path / "clip.gif", 64, 48)
    assert np.all(frame[:, :31] == 0)
    assert np.all(frame[:, 33:] == RGB)


# Hostile files


DECODE_ALL = """
import json, re, resource, sys
from pathlib import Path
from videokit.video.decode import decode, probe
from videokit.errors import InvalidInput
results = {}
for path in map(Path, json.load(sys.stdin)):
    try:
        probe(path)
        frames = decode(path, num_frames=8, width=64, height=64)
        results[path.name] = sum(frame.shape == (64, 64, 3) for frame in frames)
    except InvalidInput as error:
        results[path.name] = str(error)
memory = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
memory += resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
json.dump([results, memory], sys.stdout)
"""


def decode_all(paths: list[Path]) -> tuple[dict[str, int | str], int]:
    """Decode all files in a new process; return each number of frames or InvalidInput's text, and the peak in kB."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DECODE_ALL],
        input=json.dumps([str(path) for path in paths]),
        capture_output=True,
        text=True,
        timeout=10 * len(paths),
    )
    assert done.returncode == 0, done.stderr
    results, memory = json.loads(done.stdout)
    return results, memory


def test_every_hostile_file_gives_frames_or_one_line_of_error_in_a_gigabyte(hostile: Path) -> None:
    results, memory = decode_all([hostile / name for name in hostile_videos.TABLE])
    wrong = {
        name: (expected, results[name])
        for name, expected in hostile_videos.TABLE.items()
        if not (results[name] == 8 if expected is None else expected in str(results[name]))
    }
    assert not wrong
    errors = [result for result in results.values() if isinstance(result, str)]
    assert all("\n" not in error and len(error) < 250 for error in errors)
    assert memory < 1_000_000


def test_random_damage_gives_frames_or_invalid_input(hostile: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    damaged = []
    for name in ("plain.mp4", "index_first.mp4", "live.mkv", "variable.mkv", "stream.ts", "gif_named.mp4", "rgb.avi",
                 "alpha.webm", "snow.flv", "still.webp", "bare.h264"):  # fmt: skip
        for copy in range(12):
            data = bytearray((hostile / name).read_bytes())
            for _ in range(rng.choice([1, 5, 50])):
                # Half of the damage is in the first and last kilobyte, where containers have their tables.
                index = rng.choice([rng.randrange(len(data)), rng.randrange(1000), len(data) - 1 - rng.randrange(1000)])
                data[index % len(data)] = rng.randrange(256)
            damaged.append(tmp_path / f"{copy}_{name}")
            damaged[-1].write_bytes(data)
    results, memory = decode_all(damaged)
    assert len(results) == len(damaged)
    assert memory < 1_000_000


def test_no_file_opens_another_file(hostile: Path, tmp_path: Path) -> None:
    for name in ("list.m3u8", "concat.txt"):
        with av.open(str(hostile / name)) as container:  # libav does, without a whitelist
            assert next(container.decode(video=0))
        with pytest.raises(InvalidInput, match="not a video"):
            probe(hostile / name)


def test_no_file_opens_a_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/secret.ts"
        (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{address}\n#EXT-X-ENDLIST\n")
        (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {address}\n")
        server.setblocking(False)
        for name in ("list.mp4", "concat.mp4"):
            with pytest.raises(InvalidInput):
                probe(tmp_path / name)
            with pytest.raises(BlockingIOError):
                server.accept()
