"""Encodes frames to an MP4 (H.264) or a GIF, in a process of the ffmpeg program.

Frames may come from a generator and are never all in memory. The process encodes while the caller computes the next
frames. The file is written atomically, also when the caller is cancelled. The same frames give the same bytes.
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
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import numpy as np

from videokit.checks import check_multiple
from videokit.errors import InvalidInput, VideokitError, raise_faults
from videokit.files import atomic_write, unnamed_file
from videokit.video.ffmpeg import Process
from videokit.video.frame_store import FrameStore
from videokit.video.frames import check_frames
from videokit.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from videokit.video.frames import Frame
    from videokit.video.provenance import Provenance

logger = logging.getLogger("videokit")

MP4_FILTERS = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+full_chroma_inp+accurate_rnd+bitexact,format=yuv420p,"
    "setparams=color_primaries=bt709:color_trc=bt709"  # ffmpeg 9 ignores the options of the same names
)
# Without cpu-independent the bytes depend on the processor, and with AVX-512 on the contents of uninitialised memory.
X264 = ["-preset", "medium", "-profile:v", "high", "-crf", "17", "-x264-params", "cpu-independent=1"]
# The bytes depend on the number of threads. bitexact: ffmpeg does not write its version.
MP4 = ["-c:v", "libx264", "-threads", "4", *X264, "-fflags", "+bitexact", "-movflags", "+faststart"]
PALETTE = "palettegen=stats_mode=full:max_colors=256:reserve_transparent=0"  # median cut of all frames' histogram
GIF_FILTERS = "[0:v]settb=1/100[frames];[frames][1:v]paletteuse=dither=sierra2"  # error diffusion over two rows
GIF_FPS = (Fraction(1, 600), 50)  # a GIF's delay is 16 bits of 1/100 s, and browsers show one below 2 as 10


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
    frames, height, width, source = _as_input(frames, rate)
    # H.264's 4:2:0 chroma needs even sides.
    raise_faults(check_multiple("width", width, 2, 2), check_multiple("height", height, 2, 2))
    with atomic_write(path) as new, unnamed_file(Path(gettempdir())) as comment:
        metadata = []
        if provenance is not None:
            comment.write(f"comment={provenance.comment()}".encode())  # in a file: an argument has 128 KiB at most
            comment.seek(0)
            os.set_inheritable(comment.fileno(), True)
            metadata = ["-/metadata", f"pipe:{comment.fileno()}"]
        output = ["-filter_threads", "1", "-vf", MP4_FILTERS, *MP4, *metadata, "-f", "mp4", str(new)]
        num_frames, _ = _run([*source, *output], frames)
        if provenance is not None:
            with new.open("ab") as file:  # at the end, where it changes no offset in the index
                file.write(provenance.xmp_box())
    return _describe(path, num_frames, width, height, rate, started)


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
    frames, height, width, source = _as_input(frames, rate)
    with atomic_write(path) as new, FrameStore(path.parent) as store:
        to_pipe = ["-f", "rawvideo", "-pix_fmt", "bgra", "pipe:1"]
        num_frames, palette = _run([*source, "-vf", PALETTE, *to_pipe], store.append_each(frames))
        source += ["-f", "rawvideo", "-pixel_format", "bgra", "-video_size", "16x16"]
        source += ["-i", f"data:application/octet-stream;base64,{b64encode(palette).decode()}"]
        start, end = (floor(100 * index / rate + Fraction(1, 2)) for index in (num_frames - 1, num_frames))
        # ffmpeg does not know how long the last frame lasts in 1/100 s.
        output = ["-fps_mode", "passthrough", "-enc_time_base", "1/100", "-final_delay", str(end - start)]
        _run([*source, "-filter_complex", GIF_FILTERS, *output, "-loop", "0", "-f", "gif", str(new)], store)
        if provenance is not None:
            with new.open("r+b") as file:
                file.seek(-1, os.SEEK_END)  # the trailer: GIF89a section 24 recommends a comment before it
                file.write(provenance.gif_blocks() + b";")
    return _describe(path, num_frames, width, height, rate, started)


def _as_input(frames: Iterable[Frame], rate: Fraction) -> tuple[Iterator[Frame], int, int, list[str]]:
    """Return the frames, checked, their height and width, and the options that read them from the standard input."""
    checked = check_frames(frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("no frames to encode; a clip has at least one")
    height, width, _ = first.shape
    size = ["-video_size", f"{width}x{height}", "-framerate", str(rate)]
    return chain([first], checked), height, width, ["-f", "rawvideo", "-pixel_format", "rgb24", *size, "-i", "pipe:0"]


def _run(arguments: list[str], frames: Iterable[Frame]) -> tuple[int, bytes]:
    """Write all frames to a process of ffmpeg; return their number and its standard output, at most a pipe's buffer."""
    num_frames = 0
    with Process(arguments) as process:
        for frame in frames:
            try:
                process.stdin.write(np.ascontiguousarray(frame).data)
            except BrokenPipeError:  # it has ended
                break
            num_frames += 1
        if status := process.wait():
            raise VideokitError(f"ffmpeg ended with status {status}: {process.log(1000).strip()}")
        return num_frames, process.stdout.read()


def _describe(path: Path, num_frames: int, width: int, height: int, rate: Fraction, started: float) -> Clip:
    """Log and return what was written; the seconds include the computing of the frames."""
    clip, seconds = Clip(path, num_frames, width, height, rate, path.stat().st_size), time.perf_counter() - started
    written = f"{counted(num_frames, 'frame')} {width}x{height} at {rate} fps -> {clip.size // 1000} KB"
    logger.info(f"encode: {written} in {seconds:.1f} s")
    return clip
