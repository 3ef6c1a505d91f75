"""Video files as strangers send them: odd, broken and malicious ones, written with PyAV and Pillow, and by hand.

`write_clip` is the plain writer that tests of good clips use too; `TABLE` says of each hostile file what must come
of it: None where it must give frames, or a part of the message of the refusal.
"""

from __future__ import annotations

import os
import random
import struct
import zlib
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

BARS = 16  # a picture tells its number in binary: 16 vertical bars, white for 1
LOSSLESS = {"qp": "0"}


def numbered(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Draw a picture that tells its `index`."""
    bits = np.array([(index >> bit) & 1 for bit in range(BARS)], np.uint8)
    row = np.repeat(bits * 255, -(-width // BARS))[:width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number(frame: np.ndarray) -> int:
    """Read the index that `numbered` drew, after any scaling to a multiple of 16 columns."""
    columns = frame.mean(axis=(0, 2)).reshape(BARS, -1).mean(axis=1)
    return sum(1 << bit for bit in range(BARS) if columns[bit] > 127)


def write_clip(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    source: str = "rgb24",
    fps: int = 10,
    times: Sequence[int] | None = None,  # in units of 1/1000 s; else 0, 1, 2 ... / fps
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    format: str | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
) -> Path:
    """Encode pictures, arrays of PyAV's format `source`, as they are; `prepare` may change the new stream."""
    with av.open(path, "w", format=format, container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format=source)
            if index == 0:
                stream.width, stream.height = frame.width, frame.height
                prepare(stream)
            frame.pts = index if times is None else times[index]
            frame.time_base = Fraction(1, fps) if times is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_all(folder: Path) -> None:
    """Write every file of TABLE."""
    for make in (_plain, _broken, _large, _odd_times, _odd_pictures, _no_video, _redirecting, _no_files):
        make(folder)


def _clip(count: int = 30) -> list[np.ndarray]:
    return [numbered(index) for index in range(count)]


def _plain(folder: Path) -> None:
    write_clip(folder / "plain.mp4", _clip(), options={"g": "10"})
    write_clip(folder / "mp4_named.gif", _clip(), format="mp4")
    write_clip(folder / "one_picture.mp4", _clip(1))
    write_clip(folder / "stream.ts", _clip())
    write_clip(folder / "bare.h264", _clip())
    write_clip(folder / "live.mkv", _clip(), format="matroska", container_options={"live": "1"})
    frames = [Image.fromarray(picture).convert("P") for picture in _clip()]
    frames[0].save(folder / "gif_named.mp4", format="GIF", save_all=True, append_images=frames[1:], duration=100)
    Image.fromarray(numbered(5)).save(folder / "still.png")
    Image.fromarray(numbered(5)).save(folder / "still.jpg")
    Image.fromarray(numbered(5)).save(folder / "still.webp")
    black = (np.zeros((48, 64, 3), np.uint8) for _ in range(7200))
    write_clip(folder / "two_hours.mp4", black, fps=1, options={"preset": "ultrafast", "g": "1000"})
    black = (np.zeros((48, 64, 3), np.uint8) for _ in range(7200))
    write_clip(folder / "two_hours.avi", black, fps=1, codec="mpeg4")


def _broken(folder: Path) -> None:
    whole = (folder / "plain.mp4").read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "page.mp4").write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 50)
    (folder / "noise.mp4").write_bytes(random.Random(0).randbytes(100_000))
    (folder / "zip.mp4").write_bytes(b"PK\x03\x04" + bytes(1000))
    (folder / "no_moov.mp4").write_bytes(whole[: len(whole) // 2])  # the index comes last unless asked otherwise
    (folder / "only_ftyp.mp4").write_bytes(whole[: struct.unpack(">I", whole[:4])[0]])
    start = whole.index(b"mdat") + 4
    end = whole.index(b"moov") - 4
    (folder / "zeroed_pictures.mp4").write_bytes(whole[:start] + bytes(end - start) + whole[end:])
    hole = start + (end - start) // 2
    (folder / "hole.mp4").write_bytes(whole[:hole] + bytes(500) + whole[hole + 500 :])
    first = write_clip(folder / "index_first.mp4", _clip(), container_options={"movflags": "faststart"}).read_bytes()
    for percent in (60, 99):
        (folder / f"cut_at_{percent}.mp4").write_bytes(first[: len(first) * percent // 100])
    for name in ("live.mkv", "stream.ts", "gif_named.mp4", "still.png"):
        data = (folder / name).read_bytes()
        (folder / f"cut_{name}").write_bytes(data[: len(data) * 6 // 10])


def _large(folder: Path) -> None:
    (folder / "bomb.png").write_bytes(_png(20_000, 20_000))
    (folder / "ribbon.png").write_bytes(_png(10_000, 10))
    (folder / "bomb.gif").write_bytes(_gif(20_000, 20_000, 2))
    (folder / "work.gif").write_bytes(_gif(4096, 4096, 5000))
    (folder / "many.gif").write_bytes(_gif(1, 1, 260_000))
    (folder / "one_pixel.gif").write_bytes(_gif(1, 1, 3))
    large = np.zeros((8192, 16_384), np.uint8)
    write_clip(folder / "large.mov", [large], codec="png", pix_fmt="gray", source="gray")
    write_clip(folder / "wide.mp4", [np.zeros((64, 8200, 3), np.uint8)] * 2)
    # 64x48 coded, 20000x20000 claimed by the container
    small = write_clip(folder / "claims.avi", _clip(3), codec="mpeg4").read_bytes()
    (folder / "claims.avi").write_bytes(small.replace(struct.pack("<ii", 64, 48), struct.pack("<ii", 20_000, 20_000)))
    at_most = np.random.default_rng(0).integers(0, 1000, (4096, 4096, 3), np.uint16) * 60
    write_clip(folder / "largest.mkv", [at_most] * 2, codec="ffv1", pix_fmt="yuv444p10le", source="rgb48le")


def _odd_times(folder: Path) -> None:
    pictures = _clip(6)
    mkv = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
    write_clip(folder / "variable.mkv", pictures, times=[0, 10, 500, 510, 3000, 3001], **mkv)
    write_clip(folder / "negative.mkv", pictures, times=[-700, -600, -500, -400, -300, -200], **mkv)
    write_clip(folder / "late.mkv", pictures, times=[10**9 + n for n in range(6)], **mkv)
    write_clip(folder / "far_apart.mkv", pictures, times=[0, 1, 2, 3, 4, 2**40], **mkv)
    write_clip(folder / "fast.mp4", pictures, times=[0, 1, 2, 3, 4, 5])
    with av.open(folder / "back_and_forth.mkv", "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index, picture in enumerate(pictures):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture)):
                packet.dts, packet.pts = index, index + (5, 0, 4, 1, 3, 0)[index]
                container.mux(packet)


def _odd_pictures(folder: Path) -> None:
    write_clip(folder / "ten_bit.mkv", _clip(), codec="ffv1", pix_fmt="yuv420p10le")
    write_clip(folder / "grey.mp4", _clip(), pix_fmt="gray")
    write_clip(folder / "rgb.avi", _clip(), codec="rawvideo", pix_fmt="bgr24")
    clear = [np.dstack([picture, np.full((48, 64), 100, np.uint8)]) for picture in _clip()]
    write_clip(folder / "alpha.webm", clear, codec="libvpx-vp9", pix_fmt="yuva420p", source="rgba", fps=10)
    write_clip(folder / "turned.mp4", _clip(), prepare=lambda stream: stream.set_display_rotation(90, hflip=True))
    write_clip(folder / "stretched.mp4", _clip(), prepare=_stretch)
    with av.open(folder / "latin.mkv", "w") as container:
        container.metadata["title"] = "caf#"
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1))))
    (folder / "latin.mkv").write_bytes((folder / "latin.mkv").read_bytes().replace(b"caf#", b"caf\xe9"))
    with av.open(folder / "grows.ts", "w") as container:
        for size in (64, 128):
            codec = av.CodecContext.create("libx264", "w")
            codec.width, codec.height, codec.pix_fmt, codec.time_base = size, size, "yuv420p", Fraction(1, 10)
            if size == 64:
                stream = container.add_stream_from_template(codec) if False else container.add_stream("libx264", rate=10)
