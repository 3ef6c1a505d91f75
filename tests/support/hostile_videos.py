"""Odd, broken and malicious video files, written with PyAV, with Pillow and by hand.

`TABLE` has the expected result of each file: None if it gives frames, else a part of the error's message. `write_clip`
also writes the good clips of other tests.
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
from av.stream import Disposition
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

BARS = 16  # vertical bars of a picture: its number in binary, white for 1


def draw_number(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Return a picture that shows its `index`."""
    bits = np.array([(index >> bit) & 1 for bit in range(BARS)], np.uint8)
    row = np.repeat(bits * 255, -(-width // BARS))[:width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_number(frame: np.ndarray) -> int:
    """Return the index in a picture by `draw_number`, also after scaling to a multiple of 16 columns."""
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
    """Encode arrays of PyAV's format `source`; `prepare` may change the new stream."""
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
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        # As root, its encoder gives the thread that calls it priority over all other processes.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def write_all(folder: Path) -> None:
    """Write every file of TABLE."""
    for write in (_plain, _damaged, _large, _odd_times, _odd_pictures, _no_video, _references, _not_files):
        write(folder)


def _clip(count: int = 30) -> list[np.ndarray]:
    return [draw_number(index) for index in range(count)]


def _plain(folder: Path) -> None:
    write_clip(folder / "plain.mp4", _clip(), options={"g": "10"})
    write_clip(folder / "mp4_named.gif", _clip(), format="mp4")
    write_clip(folder / "one_picture.mp4", _clip(1))
    write_clip(folder / "stream.ts", _clip())
    write_clip(folder / "bare.h264", _clip())
    write_clip(folder / "live.mkv", _clip(), format="matroska", container_options={"live": "1"})
    frames = [Image.fromarray(picture).convert("P") for picture in _clip()]
    frames[0].save(folder / "gif_named.mp4", format="GIF", save_all=True, append_images=frames[1:], duration=100)
    Image.fromarray(draw_number(5)).save(folder / "still.png")
    Image.fromarray(draw_number(5)).save(folder / "still.jpg")
    Image.fromarray(draw_number(5)).save(folder / "still.webp")
    black = (np.zeros((48, 64, 3), np.uint8) for _ in range(7200))
    write_clip(folder / "two_hours.mp4", black, fps=1, options={"preset": "ultrafast", "g": "1000"})
    black = (np.zeros((48, 64, 3), np.uint8) for _ in range(7200))
    write_clip(folder / "two_hours.avi", black, fps=1, codec="mpeg4")


def _damaged(folder: Path) -> None:
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "page.mp4").write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 50)
    (folder / "noise.mp4").write_bytes(random.Random(0).randbytes(100_000))
    (folder / "zip.mp4").write_bytes(b"PK\x03\x04" + bytes(1000))
    snow = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)  # most bytes are pictures
    whole = write_clip(folder / "index_last.mp4", snow, options={"g": "10"}).read_bytes()
    start, end = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
    middle = (start + end) // 2
    (folder / "no_index.mp4").write_bytes(whole[:middle])
    (folder / "only_ftyp.mp4").write_bytes(whole[: struct.unpack(">I", whole[:4])[0]])
    (folder / "zeroed_pictures.mp4").write_bytes(whole[:start] + bytes(end - start) + whole[end:])
    (folder / "hole.mp4").write_bytes(whole[:middle] + bytes(3000) + whole[middle + 3000 :])
    for name, options in (("index_first.mp4", {"movflags": "faststart"}), ("snow.flv", {}), ("snow.avi", {})):
        write_clip(folder / name, snow, options={"g": "10"}, container_options=options)
    for name in ("index_first.mp4", "snow.avi", "live.mkv", "stream.ts", "gif_named.mp4", "still.png"):
        data = (folder / name).read_bytes()
        (folder / f"cut_{name}").write_bytes(data[: len(data) * 6 // 10])
    data = (folder / "index_first.mp4").read_bytes()
    (folder / "cut_late_index_first.mp4").write_bytes(data[:-50])


def _large(folder: Path) -> None:
    (folder / "bomb.png").write_bytes(_png(20_000, 20_000))
    (folder / "ribbon.png").write_bytes(_png(10_000, 10))
    (folder / "bomb.gif").write_bytes(_gif(20_000, 20_000, 2))
    (folder / "work.gif").write_bytes(_gif(4096, 4096, 5000))
    (folder / "many.gif").write_bytes(_gif(1, 1, 260_000))
    (folder / "one_pixel.gif").write_bytes(_gif(1, 1, 3))
    large = np.zeros((4000, 8000), np.uint8)
    write_clip(folder / "large.mov", [large], codec="png", pix_fmt="gray", source="gray")
    write_clip(folder / "wide.mp4", [np.zeros((64, 8200, 3), np.uint8)] * 2)
    # 64x48 coded, 20000x20000 claimed by the container
    small = write_clip(folder / "claims.avi", _clip(3), codec="mpeg4").read_bytes()
    (folder / "claims.avi").write_bytes(small.replace(struct.pack("<ii", 64, 48), struct.pack("<ii", 20_000, 20_000)))
    largest = [np.full((4096, 4096, 3), level, np.uint8) for level in range(0, 240, 60)]
    write_clip(folder / "largest.mp4", largest, pix_fmt="yuv444p10le", options={"preset": "ultrafast"})


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
        container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_number(1))))
    (folder / "latin.mkv").write_bytes((folder / "latin.mkv").read_bytes().replace(b"caf#", b"caf\xe9"))
    small, large = (write_clip(folder / f"{n}.h264", [draw_number(1, n, n)] * 5).read_bytes() for n in (64, 128))
    (folder / "grows.h264").write_bytes(small + large)


def _stretch(stream: Any) -> None:
    stream.codec_context.sample_aspect_ratio = Fraction(1, 200)


def _no_video(folder: Path) -> None:
    for name, codec, layout in (("sound.m4a", "aac", "mono"), ("sound.wav", "pcm_s16le", "mono")):
        with av.open(folder / name, "w") as container:
            stream = container.add_stream(codec, rate=8000, layout=layout)
            for packet in (*stream.encode(_silence()), *stream.encode()):
                container.mux(packet)
    with av.open(folder / "sound_with_cover.m4a", "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(draw_number(1))))
        container.mux([*sound.encode(_silence()), *sound.encode()])


def _silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.pts = 8000, 0
    return frame


def _references(folder: Path) -> None:
    """Write files that make ffmpeg open other files: the good stream.ts and plain.mp4 in the same folder."""
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nstream.ts\n#EXT-X-ENDLIST\n"
    (folder / "list.m3u8").write_text(hls)
    (folder / "list.mp4").write_text(hls)
    (folder / "concat.txt").write_text("ffconcat version 1.0\nfile plain.mp4\n")
    (folder / "concat.mp4").write_text("ffconcat version 1.0\nfile plain.mp4\n")
    (folder / "session.sdp").write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 33\n")
    (folder / "drawing.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"><image href="still.png"/></svg>'
    )
    Image.fromarray(draw_number(1)).save(folder / "numbered1.png")
    (folder / "numbered%d.png").write_text("libav's demuxer of numbered pictures reads this name as numbered1.png")


def _not_files(folder: Path) -> None:
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")


def _png(width: int, height: int) -> bytes:
    """Return a black one-bit PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes((1 + -(-width // 8)) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _gif(width: int, height: int, count: int) -> bytes:
    """Return a GIF of one-pixel pictures, 23 bytes each, on a canvas of any size."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    pixel = b"!\xf9\x04\x04\x0a\0\0\0" + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + pixel * count + b";"


NO_VIDEO, NO_FILE = "damaged or not a video", "is not a file"
TRUNCATED, NO_PICTURE = "is truncated", "no picture that can"
TABLE: dict[str, str | None] = {
    # plain, and under another name
    **dict.fromkeys(("plain.mp4", "mp4_named.gif", "gif_named.mp4", "one_picture.mp4", "stream.ts", "bare.h264")),
    **dict.fromkeys(("live.mkv", "still.png", "still.jpg", "still.webp", "two_hours.mp4", "two_hours.avi")),
    # damaged: a truncated file is an error if its container states its length, else all its pictures are used
    **dict.fromkeys(("empty.mp4", "page.mp4", "noise.mp4", "zip.mp4", "no_index.mp4", "only_ftyp.mp4"), NO_VIDEO),
    **{"zeroed_pictures.mp4": NO_PICTURE, "cut_still.png": NO_PICTURE, "hole.mp4": None},
    **dict.fromkeys(("index_last.mp4", "index_first.mp4", "snow.flv", "snow.avi")),
    **dict.fromkeys(("cut_index_first.mp4", "cut_late_index_first.mp4", "cut_snow.avi"), TRUNCATED),
    **dict.fromkeys(("cut_live.mkv", "cut_stream.ts", "cut_gif_named.mp4")),
    # large
    **{"bomb.png": NO_PICTURE, "bomb.gif": NO_PICTURE, "large.mov": NO_PICTURE, "wide.mp4": "8200x64"},
    **{"ribbon.png": "10000x10", "work.gif": "takes too long", "many.gif": "more than 250000 pictures"},
    **{"one_pixel.gif": None, "claims.avi": None, "largest.mp4": None},
    # odd times and pictures
    **dict.fromkeys(("variable.mkv", "negative.mkv", "late.mkv", "far_apart.mkv", "fast.mp4", "back_and_forth.mkv")),
    **dict.fromkeys(("ten_bit.mkv", "grey.mp4", "rgb.avi", "alpha.webm", "turned.mp4", "stretched.mp4")),
    **dict.fromkeys(("latin.mkv", "grows.h264")),
    # no video
    **{"sound.m4a": "only sound", "sound.wav": NO_VIDEO, "sound_with_cover.m4a": "only sound"},
    # references that make ffmpeg open another file
    **dict.fromkeys(("list.m3u8", "list.mp4", "concat.txt", "concat.mp4", "session.sdp", "drawing.svg"), NO_VIDEO),
    **{"numbered%d.png": NO_VIDEO},
    # not files
    **dict.fromkeys(("folder.mp4", "pipe.mp4", "device.mp4", "missing.mp4"), NO_FILE),
}
