"""Frames in, one video file out: MP4 (H.264) or GIF.

Both formats keep the same promises. Frames may come from a generator and are never held all at once. A worker thread
encodes while the caller's thread draws the next frames. The file appears under its name when it is whole, or not at
all, also when the caller is cancelled. The same frames give the same bytes.

PyAV is used directly: imageio's plugin for it has no way to the encoder's threads and the file's colour tags, and its
Pillow plugin needs all frames of a GIF at once and merges equal ones.
"""

from __future__ import annotations

import logging
import secrets
import struct
import tempfile
import time
from _thread import allocate_lock, start_new_thread
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from queue import SimpleQueue
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from videokit.checks import even
from videokit.errors import InvalidInput, refuse
from videokit.video.frames import check_frames
from videokit.video.gif import TICK, GifWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from videokit.video.frames import Frame
    from videokit.video.provenance import Provenance

logger = logging.getLogger("videokit")

FRAMES_AHEAD = 16  # drawn and not yet encoded, at most: about what a VAE decodes at once
# Without cpu-independent the bytes depend on the processor, and where it has AVX-512 on what lay in memory before.
X264 = {"preset": "medium", "profile": "high", "crf": "17", "x264-params": "cpu-independent=1"}
X264_THREADS = 4  # a fixed number, for the bytes depend on it too
ROUNDING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
GIF_FPS = (Fraction(1, 600), 50)  # a GIF's delay is 16 bits of 1/100 s, and browsers show one below 2 as 10
XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # XMP specification part 3, "MPEG-4"


@dataclass(frozen=True)
class Clip:
    """A file that was written; `width` and `height` in pixels, `size` in bytes."""

    path: Path
    num_frames: int
    width: int
    height: int
    fps: Fraction
    size: int

    @property
    def duration(self) -> float:
        """Seconds; a GIF's are rounded to 0.01 in the file."""
        return float(self.num_frames / self.fps)


def encode_mp4(
    frames: Iterable[Frame], path: Path, *, fps: int | Fraction, provenance: Provenance | None = None
) -> Clip:
    """Write H.264 High, yuv420p, crf 17, BT.709, the index before the media data: browsers play it as it arrives.

    Raises InvalidInput for an odd side or an fps not above 0, ValueError if there is no frame.
    """
    started, rate = time.perf_counter(), Fraction(fps)
    if rate <= 0:
        raise InvalidInput(f"fps={fps} is not above 0; try 8")
    frames, height, width = _sized(frames)
    refuse(even("width", width), even("height", height))
    with _new_file(path) as new:
        options = {"movflags": "+faststart", "fflags": "+bitexact"}  # bitexact: libav does not sign the file
        with av.open(str(new), "w", format="mp4", options=options) as container:
            if provenance is not None:
                container.metadata["comment"] = provenance.comment()
            stream = container.add_stream("libx264", rate, options=dict(X264))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.color_primaries, stream.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            stream.colorspace, stream.color_range = Colorspace.ITU709, ColorRange.MPEG
            stream.thread_count, stream.thread_type = X264_THREADS, "FRAME"

            def encode(index: int, frame: Frame) -> None:
                picture = av.VideoFrame.from_ndarray(frame).reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,  # left out, the matrix would be BT.601's
                    dst_color_range=ColorRange.MPEG,
                    interpolation=ROUNDING,
                    threads=1,
                )
                picture.pts, picture.time_base, picture.duration = index, 1 / rate, 1
                container.mux(stream.encode(picture))

            num_frames = _in_worker(frames, encode)
            for packet in stream.encode_lazy():
                container.mux(packet)
        if provenance is not None:
            xmp = provenance.xmp()
            with new.open("ab") as file:  # at the end, where it moves no offset that the index holds
                file.write(struct.pack(">I4s", 8 + len(XMP_BOX) + len(xmp), b"uuid") + XMP_BOX + xmp)
    return _written(Clip(path, num_frames, width, height, rate, path.stat().st_size), started)


def encode_gif(
    frames: Iterable[Frame], path: Path, *, fps: int | Fraction, provenance: Provenance | None = None
) -> Clip:
    """Write a GIF that loops for ever, in one palette, with error diffusion.

    GIF counts in 1/100 s: frame i starts at round(100 * i / fps), so that the total is right. The palette needs all
    frames before the first is written: till then they lie on the target's disk, height * width * 3 bytes each.
    Raises InvalidInput for an fps outside 1/600 to 50, ValueError if there is no frame.
    """
    started, rate = time.perf_counter(), Fraction(fps)
    if not GIF_FPS[0] <= rate <= GIF_FPS[1]:
        raise InvalidInput(f"fps={fps} is outside what a GIF can show ({GIF_FPS[0]} to {GIF_FPS[1]}); write an MP4")
    frames, height, width = _sized(frames)
    # a file without a name: the system takes it back whatever happens to this process
    with _new_file(path) as new, tempfile.TemporaryFile(dir=path.parent) as store:
        writer = GifWriter(height, width)

        def keep(index: int, frame: Frame) -> None:
            store.write(frame.data)
            writer.count(frame)

        num_frames = _in_worker(frames, keep)
        store.seek(0)
        kept = (np.frombuffer(store.read(3 * height * width), np.uint8) for _ in range(num_frames))
        starts = [round(index / rate / TICK) for index in range(num_frames + 1)]
        writer.write(new, (frame.reshape(height, width, 3) for frame in kept), starts, provenance)
    return _written(Clip(path, num_frames, width, height, rate, path.stat().st_size), started)


def _sized(frames: Iterable[Frame]) -> tuple[Iterator[Frame], int, int]:
    """Draw the first frame; return all frames again, checked, with their height and width."""
    checked = check_frames(frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("there are no frames to encode; a clip has at least one")
    return chain([first], checked), first.shape[0], first.shape[1]


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; at the end it becomes `path`, or is gone if there was an exception."""
    part = path.absolute().with_name(f".{secrets.token_hex(8)}.part")  # absolute: libav reads "a:b" as a URL
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _in_worker(frames: Iterator[Frame], consume: Callable[[int, Frame], None]) -> int:
    """Call consume(index, frame) in one worker thread while this thread draws the next frames; return their number.

    An exception on either side ends both, and is raised here. This thread waits with what is written in C only: a
    cancel that strikes inside the locks of threading.Condition, on which Event, Queue, Thread.start and executors
    are built, comes out as "release unlocked lock". A cancel may even strike the worker, before its first line: till
    the system runs a new thread, Python 3.11 takes it for the one that started it.
    """
    todo: SimpleQueue[tuple[int, Frame] | None] = SimpleQueue()
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    busy = allocate_lock()
    stopped = False

    def work() -> Iterator[None]:
        nonlocal stopped
        try:
            yield  # the thread goes on from here: whatever strikes it is caught
            while (item := todo.get()) is not None:
                with busy:
                    if stopped:
                        return
                    consume(*item)
                    done.put(None)
        except BaseException as error:
            stopped = True
            done.put(error)

    def stop() -> None:
        nonlocal stopped
        stopped = True
        todo.put(None)
        with busy:  # till the worker has finished the frame in its hands
            pass

    num_frames = 0
    try:
        worker = work()
        next(worker)
        start_new_thread(next, (worker, None))
        for num_frames, frame in enumerate(frames, start=1):
            todo.put((num_frames - 1, frame.copy()))  # the caller may draw the next frame into the same array
            if num_frames >= FRAMES_AHEAD:
                _wait_for_one(done)
        for _ in range(min(num_frames, FRAMES_AHEAD - 1)):
            _wait_for_one(done)
    finally:
        try:
            stop()
        finally:
            stop()  # again, for a cancel may have struck in the first
    return num_frames


def _wait_for_one(done: SimpleQueue[BaseException | None]) -> None:
    """Wait till one more frame is done; raise the error that came of it."""
    error = done.get()
    if error is not None:
        try:
            raise error
        finally:
            del error  # it holds this function's frame, which would hold it: a cycle, and the encoder in it


def _written(clip: Clip, started: float) -> Clip:
    """Log what was written and how long it took, the drawing of the frames included."""
    logger.info(
        "encode: %d frames %dx%d at %s fps -> %d KB in %.1f s",
        *(clip.num_frames, clip.width, clip.height, clip.fps, clip.size // 1000, time.perf_counter() - started),
    )
    return clip
