"""Frames in, one video file out: MP4 (H.264) or GIF.

Both formats keep the same promises. Frames may come from a generator and are never all in memory. A worker thread
encodes while the caller's thread computes the next frames. The file appears when it is whole, or not at all, also when
the caller is cancelled. The same frames give the same bytes.
"""

from __future__ import annotations

import logging
import struct
import time
from _thread import allocate_lock, start_new_thread
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from queue import SimpleQueue
from typing import TYPE_CHECKING

import av
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from videokit.checks import check_multiple
from videokit.errors import InvalidInput, raise_faults
from videokit.files import atomic_write
from videokit.video.frame_store import FrameStore
from videokit.video.frames import check_frames
from videokit.video.gif import TICK, GifWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from videokit.video.frames import Frame
    from videokit.video.provenance import Provenance

logger = logging.getLogger("videokit")

FRAMES_AHEAD = 16  # the most frames that wait for the encoder: about one batch of a VAE
# Without cpu-independent the bytes depend on the processor, and with AVX-512 on the contents of uninitialised memory.
X264 = {"preset": "medium", "profile": "high", "crf": "17", "x264-params": "cpu-independent=1"}
X264_THREADS = 4  # fixed, because the bytes depend on it
ROUNDING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
GIF_FPS = (Fraction(1, 600), 50)  # a GIF's delay is 16 bits of 1/100 s, and browsers show one below 2 as 10
XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # XMP specification part 3, "MPEG-4"


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

    Raises InvalidInput for an odd side or an fps not above 0, ValueError if there is no frame.
    """
    started, rate = time.perf_counter(), Fraction(fps)
    if rate <= 0:
        raise InvalidInput(f"fps={fps} must be above 0; try 8")
    frames, height, width = _measure_frames(frames)
    # H.264's 4:2:0 chroma needs even sides.
    raise_faults(*(check_multiple(name, side, 2, 2) for name, side in (("width", width), ("height", height))))
    with atomic_write(path) as new:
        options = {"movflags": "+faststart", "fflags": "+bitexact"}  # bitexact: libav does not write its version
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
                    dst_colorspace=Colorspace.ITU709,  # the default matrix would be BT.601's
                    dst_color_range=ColorRange.MPEG,
                    interpolation=ROUNDING,
                    threads=1,
                )
                picture.pts, picture.time_base, picture.duration = index, 1 / rate, 1
                container.mux(stream.encode(picture))

            num_frames = _run_worker(frames, encode)
            for packet in stream.encode_lazy():
                container.mux(packet)
        if provenance is not None:
            xmp = provenance.xmp()
            with new.open("ab") as file:  # at the end, where it changes no offset in the index
                file.write(struct.pack(">I4s", 8 + len(XMP_BOX) + len(xmp), b"uuid") + XMP_BOX + xmp)
    return _log_clip(Clip(path, num_frames, width, height, rate, path.stat().st_size), started)


def encode_gif(
    frames: Iterable[Frame], path: Path, *, fps: int | Fraction, provenance: Provenance | None = None
) -> Clip:
    """Write a GIF that loops forever, in one palette, with error diffusion.

    GIF counts in 1/100 s. Frame i starts at round(100 * i / fps), so that the total duration is right. The palette
    needs all frames before the first is written, so they are stored in a FrameStore next to the target.
    Raises InvalidInput for an fps outside 1/600 to 50, ValueError if there is no frame.
    """
    started, rate = time.perf_counter(), Fraction(fps)
    if not GIF_FPS[0] <= rate <= GIF_FPS[1]:
        raise InvalidInput(f"fps={fps} is out of range for a GIF ({GIF_FPS[0]} to {GIF_FPS[1]}); write an MP4")
    frames, height, width = _measure_frames(frames)
    with atomic_write(path) as new, FrameStore(path.parent) as store:
        writer = GifWriter(height, width)

        def store_and_count(_: int, frame: Frame) -> None:
            store.append(frame)
            writer.count(frame)

        num_frames = _run_worker(frames, store_and_count)
        starts = [round(index / rate / TICK) for index in range(num_frames + 1)]
        writer.write(new, store, starts, provenance)
    return _log_clip(Clip(path, num_frames, width, height, rate, path.stat().st_size), started)


def _measure_frames(frames: Iterable[Frame]) -> tuple[Iterator[Frame], int, int]:
    """Return all frames, checked, with the height and width of the first."""
    checked = check_frames(frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("no frames to encode; a clip has at least one")
    return chain([first], checked), first.shape[0], first.shape[1]


def _run_worker(frames: Iterator[Frame], consume: Callable[[int, Frame], None]) -> int:
    """Return the number of frames, after one worker thread has called consume(index, frame) for each of them.

    The caller's thread computes the next frames meanwhile. An exception on either side ends both, and is raised here.
    The caller waits only on objects that are written in C: a cancel inside the locks of threading.Condition, on which
    Event, Queue, Thread.start and executors are built, is reported as "release unlocked lock". A cancel can be raised
    in the worker before its first line: in Python 3.11 a thread that has not started yet has its parent's id.
    """
    todo: SimpleQueue[tuple[int, Frame] | None] = SimpleQueue()
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    busy = allocate_lock()
    stopped = False

    def work() -> Iterator[None]:
        nonlocal stopped
        try:
            yield  # the thread continues here, inside the try
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
        with busy:  # wait for the worker to finish its frame
            pass

    num_frames = 0
    try:
        worker = work()
        next(worker)
        start_new_thread(next, (worker, None))
        for num_frames, frame in enumerate(frames, start=1):
            todo.put((num_frames - 1, frame.copy()))  # the caller may write the next frame into the same array
            if num_frames >= FRAMES_AHEAD:
                _wait_for_one(done)
        for _ in range(min(num_frames, FRAMES_AHEAD - 1)):
            _wait_for_one(done)
    finally:
        try:
            stop()
        finally:
            stop()  # again, because a cancel may have interrupted the first call
    return num_frames


def _wait_for_one(done: SimpleQueue[BaseException | None]) -> None:
    """Wait until one more frame is done; raise its error."""
    error = done.get()
    if error is not None:
        try:
            raise error
        finally:
            del error  # it refers to this function's frame: together they would be a cycle that holds the encoder


def _log_clip(clip: Clip, started: float) -> Clip:
    """Log and return the clip; the seconds include the computing of the frames."""
    logger.info(
        "encode: %d frames %dx%d at %s fps -> %d KB in %.1f s",
        *(clip.num_frames, clip.width, clip.height, clip.fps, clip.size // 1000, time.perf_counter() - started),
    )
    return clip
