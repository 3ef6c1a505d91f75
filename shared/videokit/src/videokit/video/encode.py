"""Frames in, one video file out: MP4 (H.264) or GIF, encoded by a process of the ffmpeg program.

Both formats keep the same promises. Frames may come from a generator and are never all in memory. The process encodes
while the caller computes the next frames. The file appears when it is whole, or not at all, also when the caller is
cancelled. The same frames give the same bytes.
"""

from __future__ import annotations

import logging
import os
import time
from base64 import b64encode
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import floor
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import numpy as np

from videokit.checks import check_multiple
from videokit.errors import InvalidInput, VideokitError, raise_faults
from videokit.files import atomic_write
from videokit.video.ffmpeg import Process
from videokit.video.frame_store import FrameStore
from videokit.video.frames import check_frames

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from videokit.video.frames import Frame
    from videokit.video.provenance import Provenance

logger = logging.getLogger("videokit")

MP4_FILTERS = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+full_chroma_inp+accurate_rnd+bitexact,format=yuv420p,"
    "setparams=color_primaries=bt709:color_trc=bt709"  # ffmpeg 9 ignores the options of the same names
)
# Without cpu-independent the bytes depend on the processor, and with AVX-512 on the contents of uninitialised memory.
X264 = ["-preset", "medium", "-profile:v", "high", "-crf", "17", "-x264-params", "cpu-independent=1"]
X264_THREADS = 4  # fixed, because the bytes depend on it
# bitexact: ffmpeg does not write its version.
MP4 = ["-c:v", "libx264", "-threads", str(X264_THREADS), *X264, "-fflags", "+bitexact", "-movflags", "+faststart"]
PALETTE = "palettegen=stats_mode=full:max_colors=256:reserve_transparent=0"  # median cut of all frames' histogram
GIF_FILTERS = "[0:v]settb=1/100[frames];[frames][1:v]paletteuse=dither=sierra2"  # error diffusion over two rows
GIF_FPS = (Fraction(1, 600), 50)  # a GIF's delay is 16 bits of 1/100 s, and browsers show one below 2 as 10
GIF_TRAILER = b";"  # section 27 of GIF89a


@dataclass(frozen=True)
class Clip:
    """A written file; `width` and `height` in pixels, `size` in bytes."""

    path: Path
    num_frames: int
    width: int
    height: int
    fps: Fraction
    size: int

    @property
    def duration(self) -> float:
        """The duration in seconds; a GIF's file rounds it to 0.01."""
        return float(self.num_frames / self.fps)


def encode_mp4(
    frames: Iterable[Frame], path: Path, *, fps: int | Fraction, provenance: Provenance | None = None
) -> Clip:
    """Write H.264 High, yuv420p, crf 17, BT.709, the index before the media data: browsers play it as it arrives.

    Raises InvalidInput for an odd side or an fps not above 0, ValueError if there is no frame, VideokitError with
    ffmpeg's message if it fails.
    """
    started, rate = time.perf_counter(), Fraction(fps)
    if rate <= 0:
        raise InvalidInput(f"fps={fps} must be above 0; try 8")
    frames, height, width = _measure_frames(frames)
    # H.264's 4:2:0 chroma needs even sides.
    raise_faults(*(check_multiple(name, side, 2, 2) for name, side in (("width", width), ("height", height))))
    with atomic_write(path) as new, TemporaryFile() as comment:
        metadata = []
        if provenance is not None:
            comment.write(f"comment={provenance.comment()}".encode())  # in a file: an argument has 128 KiB at most
            comment.seek(0)
            os.set_inheritable(comment.fileno(), True)
            metadata = ["-/metadata", f"pipe:{comment.fileno()}"]
        output = ["-filter_threads", "1", "-vf", MP4_FILTERS, *MP4, *metadata, "-f", "mp4", str(new)]
        num_frames, _ = _run([*_input(width, height, rate), *output], frames)
        if provenance is not None:
            _append(new, provenance.xmp_box())  # at the end, where it changes no offset in the index
    return _log_clip(Clip(path, num_frames, width, height, rate, path.stat().st_size), started)


def encode_gif(
    frames: Iterable[Frame], path: Path, *, fps: int | Fraction, provenance: Provenance | None = None
) -> Clip:
    """Write a GIF that loops forever, in one palette, with error diffusion.

    GIF counts in 1/100 s. Frame i starts at 100 * i / fps, rounded, so that the total duration is right. The palette
    needs all frames before the first is written, so they are stored in a FrameStore next to the target.
    Raises InvalidInput for an fps outside 1/600 to 50, ValueError if there is no frame, VideokitError with ffmpeg's
    message if it fails.
    """
    started, rate = time.perf_counter(), Fraction(fps)
    if not GIF_FPS[0] <= rate <= GIF_FPS[1]:
        raise InvalidInput(f"fps={fps} is out of range for a GIF ({GIF_FPS[0]} to {GIF_FPS[1]}); write an MP4")
    frames, height, width = _measure_frames(frames)
    with atomic_write(path) as new, FrameStore(path.parent) as store:
        source = _input(width, height, rate)
        to_pipe = ["-f", "rawvideo", "-pix_fmt", "bgra", "pipe:1"]
        num_frames, palette = _run([*source, "-vf", PALETTE, *to_pipe], _store_each(frames, store))
        source += ["-f", "rawvideo", "-pixel_format", "bgra", "-video_size", "16x16"]
        source += ["-i", f"data:application/octet-stream;base64,{b64encode(palette).decode()}"]
        start, end = (floor(100 * index / rate + Fraction(1, 2)) for index in (num_frames - 1, num_frames))
        # ffmpeg does not know how long the last frame lasts in 1/100 s.
        output = ["-fps_mode", "passthrough", "-enc_time_base", "1/100", "-final_delay", str(end - start)]
        _run([*source, "-filter_complex", GIF_FILTERS, *output, "-loop", "0", "-f", "gif", str(new)], store)
        if provenance is not None:
            # GIF89a section 24 recommends a comment at the beginning or the end, before the trailer.
            _append(new, provenance.gif_blocks() + GIF_TRAILER, replaced=len(GIF_TRAILER))
    return _log_clip(Clip(path, num_frames, width, height, rate, path.stat().st_size), started)


def _measure_frames(frames: Iterable[Frame]) -> tuple[Iterator[Frame], int, int]:
    """Return all frames, checked, with the height and width of the first."""
    checked = check_frames(frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("no frames to encode; a clip has at least one")
    return chain([first], checked), first.shape[0], first.shape[1]


def _input(width: int, height: int, rate: Fraction) -> list[str]:
    """Return the options of frames that come through the standard input."""
    size = ["-video_size", f"{width}x{height}", "-framerate", str(rate)]
    return ["-f", "rawvideo", "-pixel_format", "rgb24", *size, "-i", "pipe:0"]


def _run(arguments: list[str], frames: Iterable[Frame]) -> tuple[int, bytes]:
    """Write all frames to a process of ffmpeg; return their number and its standard output, at most a pipe's buffer."""
    num_frames, ended = 0, False
    with Process(arguments) as process:
        for frame in frames:
            num_frames += 1
            try:
                process.stdin.write(np.ascontiguousarray(frame).data)
            except BrokenPipeError:
                ended = True
                break
        status = process.wait()
        if status or ended:
            raise VideokitError(f"ffmpeg ended with status {status}: {process.log(1000).strip()}")
        return num_frames, process.stdout.read()


def _store_each(frames: Iterable[Frame], store: FrameStore) -> Iterator[Frame]:
    for frame in frames:
        store.append(frame)
        yield frame


def _append(file: Path, content: bytes, replaced: int = 0) -> None:
    """Write bytes at the end of a file, over its last `replaced` bytes."""
    with file.open("r+b") as end:
        end.seek(-replaced, os.SEEK_END)
        end.write(content)


def _log_clip(clip: Clip, started: float) -> Clip:
    """Log and return the clip; the seconds include the computing of the frames."""
    logger.info(
        "encode: %d frames %dx%d at %s fps -> %d KB in %.1f s",
        *(clip.num_frames, clip.width, clip.height, clip.fps, clip.size // 1000, time.perf_counter() - started),
    )
    return clip
