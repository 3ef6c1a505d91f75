"""Decoding of a user's video, GIF or picture: a given number of frames of a given size, for a model's video input.

Frame i is the picture on screen at (i + 0.5) * duration / num_frames, the middle of the i-th of `num_frames` equal
parts of the clip. n frames of a clip with a constant rate and n pictures are those n pictures. Presentation times are
used, so variable frame rates are right. Pictures are not blended.

Colours follow the file's matrix and range. Pictures are rotated and mirrored by their display matrix. Pixels that are
not square are stretched. Transparency (GIF, PNG) is composited over black. Not supported: the alpha plane of a WebM (a
second stream), HDR tone mapping, deinterlacing.

Files are not trusted. Only the containers below are opened, no file can open another file or an address, and sizes are
checked before pictures are decoded. A packet that cannot be decoded is skipped, as in a player. A truncated file raises
InvalidInput.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
import numpy as np
from av.stream import Disposition
from av.video.stream import VideoStream

from videokit.checks import check_range
from videokit.errors import InvalidInput, raise_faults
from videokit.video.picture import fit, orientation, to_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import InputContainer
    from av.packet import Packet

    from videokit.video.frames import Frame

logger = logging.getLogger("videokit")

MAX_SIDE = 8192  # pixels
MAX_PIXELS = 4096 * 4096  # every 4K format; the worst such clip has a peak memory of 0.6 GB
MAX_DECODED = 20_000_000_000  # pixels of a clip, about 20 s of work; 5 minutes of 1920x1080 at 30 fps
MAX_PICTURES = 250_000  # of a clip whose pictures must be counted; over 2 hours at 30 fps

# The allowed demuxers; libav picks one by content. Playlists (HLS, DASH), concat lists, SDP, SVG, numbered pictures and
# all other demuxers that open a second file or an address are excluded.
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # have an index with the times of their keyframes
NOT_INDEXED = ("avi", "flv", "asf", "ogg", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "ivf", "mjpeg")
PICTURE_FORMATS = ("gif", "apng", "png_pipe", "jpeg_pipe", "webp_pipe")


@dataclass(frozen=True)
class VideoInfo:
    """A clip as a player shows it: upright, in square pixels.

    `duration` is in seconds, from the first picture to the end of the last. `num_frames` is None if the file does not
    state it and only reading the whole file would give it.
    """

    path: Path
    width: int
    height: int
    num_frames: int | None
    duration: float
    codec: str


def probe(path: Path) -> VideoInfo:
    """Return the facts of a clip and decode its first picture only; raise InvalidInput if it cannot be used."""
    with _open_clip(path) as clip:
        _, picture = next(clip.pictures(), (0.0, None))
        if picture is None:
            raise InvalidInput(
                f"{path.name} has no picture that can be decoded: it is damaged, or over {MAX_SIDE} pixels a side or "
                f"{MAX_PIXELS / 1e6:.0f} megapixels; give another file"
            )
        to_image(picture, path)  # raises for colours that cannot be converted, before the first frame is used
        codec = clip.stream.codec_context.name
        width, height = max(1, round(picture.width * clip.pixel_aspect)), picture.height
        if orientation(picture)[0]:
            width, height = height, width
        start, num_frames, duration = clip.start, clip.stream.frames or None, clip.end_by_index()
    if duration is None:
        with _open_clip(path) as clip:
            num_frames, duration = clip.read_to_end(start)
            if not clip.indexed:
                _check_work(path, num_frames, picture)
    return VideoInfo(path, width, height, num_frames, duration, codec)


def decode(path: Path, *, num_frames: int, width: int, height: int) -> Iterator[Frame]:
    """Return exactly `num_frames` frames of a clip, each scaled to cover (height, width) and cropped at its centre.

    All checks are done when this returns. The iterator decodes as frames are consumed and holds one picture at a time.
    If a clip has too few pictures, some are repeated, which is logged. Raises InvalidInput.
    """
    raise_faults(
        check_range("num_frames", num_frames, 1),
        check_range("width", width, 1, MAX_SIDE),
        check_range("height", height, 1, MAX_SIDE),
    )
    return _frames(probe(path), num_frames, width, height)


def _frames(info: VideoInfo, num_frames: int, width: int, height: int) -> Iterator[Frame]:
    times = [(i + 0.5) * info.duration / num_frames for i in range(num_frames)]
    previous, different = None, 0
    with _open_clip(info.path) as clip:
        for index, picture in enumerate(_pictures_at(clip, times)):
            if picture is not previous:
                previous, different = picture, different + 1
                image = fit(picture, info.path, clip.pixel_aspect, width, height)
            if index == num_frames - 1:
                logger.info(
                    f"decode: {num_frames} frames {width}x{height} from {info.path.name} ({info.codec} {info.width}x"
                    f"{info.height}, {info.duration:.2f} s): {different} different pictures of {clip.decoded} decoded"
                    + ("; it has too few, so some are repeated" if different < num_frames else "")
                )
            yield np.array(image)


def _pictures_at(clip: _Clip, times: list[float]) -> Iterator[av.VideoFrame]:
    """Yield the picture on screen at each of `times` (ascending); seek to keyframes across wide gaps."""
    pictures = clip.pictures()
    current = following = next(pictures, None)
    min_gap = 1.0 if clip.indexed else math.inf  # seconds; shorter gaps are decoded
    for time in times:
        if following is not None and time - following[0] > min_gap:
            before_seek = following[0]
            pictures = clip.pictures(seek_to=time)
            following = next(pictures, None)
            if following is None or following[0] > time:  # the index is wrong: start again without it
                pictures, min_gap = clip.pictures(seek_to=0.0), math.inf
                following = next(pictures, None)
            elif following[0] <= before_seek:  # the keyframes are so far apart that the seek went back
                min_gap = 2 * (time - following[0])
        while following is not None and following[0] <= time:
            current, following = following, next(pictures, None)
        if current is None:
            raise InvalidInput(f"{clip.path.name}: its first picture can no longer be decoded; give another file")
        yield current[1]


class _Clip:
    """An open file and its video stream, read from its current position. Times are seconds after the first picture."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self.path, self.container, self.stream = path, container, stream
        self.indexed = container.format.name in INDEXED
        self.start: int | None = None  # time of the first picture, in `unit`; None if the file has no times
        self.unit = float(stream.time_base or 1)
        self.interval = float(1 / (stream.average_rate or stream.base_rate or 25))  # between pictures without times
        self.pixel_aspect = float(stream.sample_aspect_ratio or 1)
        self.decoded = 0
        self.readable = True

    def pictures(self, seek_to: float | None = None) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield each picture with its time, from the current position, or from the keyframe before `seek_to`."""
        if seek_to is not None:
            self._seek(seek_to)
        time = -self.interval
        for packet in self._packets():
            try:
                pictures = packet.decode()
            except av.FFmpegError:
                continue
            for picture in pictures:
                self.decoded += 1
                _check_work(self.path, self.decoded, picture)
                if self.start is None:
                    self.start = picture.pts
                if self.start is None or picture.pts is None:
                    time += self.interval
                else:
                    time = (picture.pts - self.start) * self.unit
                yield time, picture

    def end_by_index(self) -> float | None:
        """Return the end of the last picture, found by reading from the last keyframe; None without an index."""
        if not self.indexed or self.start is None or self.container.duration is None:
            return None
        self._seek(self.container.duration / av.time_base)
        count, end = self.read_to_end(self.start)
        return end if count else None

    def read_to_end(self, start: int | None) -> tuple[int, float]:
        """Return the number of pictures read to the end, without decoding, and the end of the last in seconds."""
        count, end, latest, complete = 0, 0.0, -math.inf, True
        for packet in self._packets():
            if not packet.size:
                continue  # the packet that marks the end
            count += 1
            if count > MAX_PICTURES:
                raise InvalidInput(f"{self.path.name} has more than {MAX_PICTURES} pictures; give a shorter clip")
            complete = not packet.is_corrupt
            timestamp = packet.dts if packet.pts is None else packet.pts
            if start is None or timestamp is None:
                end += self.interval
            else:
                latest = max(latest, timestamp)
                duration = packet.duration * self.unit if packet.duration else self.interval
                end = max(end, (timestamp - start) * self.unit + duration)
        index = self.stream.index_entries
        last_indexed = index[-1].timestamp if self.indexed and len(index) else -math.inf
        if not (complete and self.readable) or (count and latest < last_indexed):
            raise InvalidInput(
                f"{self.path.name} is truncated {end:.1f} s after its start; give the complete file, or repair it "
                "(ffmpeg -i TRUNCATED -c copy REPAIRED)"
            )
        return count, end

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        try:
            yield from self.container.demux(self.stream)
        except av.FFmpegError:
            self.readable = False
        except IndexError:
            return  # PyAV 18.1, at the end of an MPEG stream in which another stream appeared midway

    def _seek(self, time: float) -> None:
        # 2**62, because a file may state any time, and libav's times have 64 bits.
        target = min((self.start or 0) + int(time / self.unit), 2**62)
        try:
            self.container.seek(target, stream=self.stream)
        except av.FFmpegError:
            self.readable = False


@contextmanager
def _open_clip(path: Path) -> Iterator[_Clip]:
    """Open a file and yield its video stream as a clip; raise InvalidInput if it has none, or one that is too large."""
    advice = "give an MP4, WebM, MOV, MKV, AVI or GIF file"
    if not path.is_file():
        raise InvalidInput(f"{path.name} is not a file; {advice}")
    limits = {"max_pixels": str(MAX_PIXELS)}  # for files whose header states a wrong size, or none
    guards = {"format_whitelist": ",".join(INDEXED + NOT_INDEXED + PICTURE_FORMATS), "protocol_whitelist": "fd"}
    with path.open("rb", buffering=0) as file:
        # By its descriptor, so that libav has no name to choose a demuxer by. Not as a Python object, because libav
        # swallows a cancel that is raised in a method of it.
        source = {"fd": str(file.fileno())}
        try:
            container = av.open("fd:", options=source | guards | limits, metadata_errors="replace")
        except av.FFmpegError as error:
            size = path.stat().st_size
            raise InvalidInput(f"{path.name} ({size} bytes) is damaged or not a video; {advice}") from error
        with container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
                other = "sound" if container.streams.audio else "other data"
                raise InvalidInput(f"{path.name} has no video, only {other}; {advice}")
            if stream.codec_context is None:
                raise InvalidInput(f"{path.name} has a video codec that is not supported; {advice} with H.264")
            width, height = stream.codec_context.width, stream.codec_context.height
            if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
                raise InvalidInput(
                    f"{path.name} is {width}x{height} pixels; at most {MAX_SIDE} a side and "
                    f"{MAX_PIXELS / 1e6:.0f} megapixels are allowed: scale it down"
                )
            stream.codec_context.options = limits
            yield _Clip(path, container, stream)


def _check_work(path: Path, num_pictures: int, picture: av.VideoFrame) -> None:
    """Raise InvalidInput if so many pictures of this size take too long to decode."""
    if num_pictures * picture.width * picture.height > MAX_DECODED:
        raise InvalidInput(
            f"{path.name} takes too long to decode ({num_pictures} pictures of {picture.width}x{picture.height}); at "
            f"most {MAX_DECODED // 10**9} gigapixels are allowed: give a shorter or smaller clip, or an MP4 with a "
            "keyframe every few seconds"
        )
