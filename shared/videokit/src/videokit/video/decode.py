"""A user's video, GIF or picture -> frames for a model's video input: a wanted number, at a wanted size.

Frame i shows what is on screen at (i + 0.5) * duration / num_frames, the middle of the i-th of `num_frames` equal
parts of the clip: n frames of a steady clip of n pictures are those n pictures. Presentation times decide, so a
variable frame rate is honoured; nothing is blended.

Colours follow the file's matrix and range, pictures are turned and mirrored as their display matrix says, pixels
that are not square are stretched, transparency (GIF, PNG) is laid over black. Not done: the alpha plane of a WebM
(a stream of its own) is not read, HDR is not tone-mapped, interlaced video not deinterlaced.

Files come from strangers: only the containers below are opened, no file can make another file or address be opened,
and sizes are checked before pictures are decoded. A packet that cannot be decoded changes nothing on screen, as in
a player; a file that is seen to break off is refused.
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
from videokit.checks import in_range
from videokit.errors import InvalidInput, refuse
from videokit.video.picture import fit, orientation, to_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import InputContainer
    from av.packet import Packet
    from videokit.video.frames import Frame

log = logging.getLogger("videokit")

MAX_SIDE = 8192  # pixels
MAX_PIXELS = 4096 * 4096  # all that is called 4K, and square; the worst such clip takes 0.6 GB at its peak
MAX_DECODED = 20_000_000_000  # pixels in all, about 20 s of work; five minutes of 1920x1080 at 30 pictures a second
MAX_PICTURES = 250_000  # where they have to be counted: over two hours at 30 a second

# The demuxers that may be used; libav picks one by content. Playlists (HLS, DASH), concat lists, SDP, SVG, numbered
# pictures and all others that open a second file or an address are not among them.
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # say at what time their keyframes are
OTHERS = ("avi", "flv", "asf", "ogg", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "ivf", "mjpeg")
PICTURES = ("gif", "apng", "png_pipe", "jpeg_pipe", "webp_pipe")


@dataclass(frozen=True)
class VideoInfo:
    """What a clip is, as a player shows it: upright, in square pixels.

    `duration` is in seconds, from the first picture to the end of the last. `num_frames` is None where the file does
    not say it and counting would mean to read all of it.
    """

    path: Path
    width: int
    height: int
    num_frames: int | None
    duration: float
    codec: str


def probe(path: Path) -> VideoInfo:
    """Describe a clip, of which only the first picture is decoded; raise InvalidInput if it cannot be used."""
    with _opened(path) as clip:
        _, picture = next(clip.pictures(), (0.0, None))
        if picture is None:
            raise InvalidInput(
                f"{path.name}: no picture in it can be decoded: it is damaged, or over {MAX_SIDE} pixels a side or "
                f"{MAX_PIXELS / 1e6:.0f} megapixels; give another file"
            )
        to_image(picture, path)  # colours that cannot be converted fail here, not half-way
        codec = clip.stream.codec_context.name
        width, height = max(1, round(picture.width * clip.pixel_aspect)), picture.height
        if orientation(picture)[0]:
            width, height = height, width
        start, num_frames, duration = clip.start, clip.stream.frames or None, clip.end_by_index()
    if duration is None:
        with _opened(path) as clip:
            num_frames, duration = clip.read_on(start)
            if not clip.indexed:
                _refuse_too_much_work(path, num_frames, picture)
    return VideoInfo(path, width, height, num_frames, duration, codec)


def decode(path: Path, *, num_frames: int, width: int, height: int) -> Iterator[Frame]:
    """Show a clip in exactly `num_frames` frames, each scaled to cover (height, width) and cropped about its centre.

    All checks are done when this returns; pictures are decoded as frames are asked for, and one is held at a time.
    Where a clip has too few pictures, some are shown more than once, and the log says so. Raises InvalidInput.
    """
    refuse(
        in_range("num_frames", num_frames, 1),
        in_range("width", width, 1, MAX_SIDE),
        in_range("height", height, 1, MAX_SIDE),
    )
    return _frames(probe(path), num_frames, width, height)


def _frames(info: VideoInfo, num_frames: int, width: int, height: int) -> Iterator[Frame]:
    times = [(i + 0.5) * info.duration / num_frames for i in range(num_frames)]
    shown, different = None, 0
    with _opened(info.path) as clip:
        for index, picture in enumerate(_on_screen(clip, times)):
            if picture is not shown:
                shown, different = picture, different + 1
                image = fit(picture, info.path, clip.pixel_aspect, width, height)
            if index == num_frames - 1:
                log.info(
                    f"decode: {num_frames} frames {width}x{height} from {info.path.name} ({info.codec} {info.width}x"
                    f"{info.height}, {info.duration:.2f} s): {different} different pictures of {clip.decoded} decoded"
                    + ("; it has too few, so some are shown more than once" if different < num_frames else "")
                )
            yield np.array(image)


def _on_screen(clip: _Clip, times: list[float]) -> Iterator[av.VideoFrame]:
    """Yield for each of `times`, which rise, the last picture that is not later; leap to keyframes over wide gaps."""
    pictures = clip.pictures()
    shown = coming = next(pictures, None)
    leap = 1.0 if clip.indexed else math.inf  # seconds; shorter gaps are decoded through
    for time in times:
        if coming is not None and time - coming[0] > leap:
            passed = coming[0]
            pictures = clip.pictures(leap_to=time)
            coming = next(pictures, None)
            if coming is None or coming[0] > time:  # the index is wrong: from the start again, without it
                pictures, leap = clip.pictures(leap_to=0.0), math.inf
                coming = next(pictures, None)
            elif coming[0] <= passed:  # keyframes are so far apart that this went back
                leap = 2 * (time - coming[0])
        while coming is not None and coming[0] <= time:
            shown, coming = coming, next(pictures, None)
        if shown is None:
            raise InvalidInput(f"{clip.path.name}: its first picture can no longer be decoded; give another file")
        yield shown[1]


class _Clip:
    """An open file and its video stream, read on from where it stands. Times are seconds after its first picture."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self.path, self.container, self.stream = path, container, stream
        self.indexed = container.format.name in INDEXED
        self.start: int | None = None  # presentation time of the first picture, in `unit`; None if files have no times
        self.unit = float(stream.time_base or 1)
        self.interval = float(1 / (stream.average_rate or stream.base_rate or 25))  # where no time is given
        self.pixel_aspect = float(stream.sample_aspect_ratio or 1)
        self.decoded = 0
        self.readable = True

    def pictures(self, leap_to: float | None = None) -> Iterator[tuple[float, av.VideoFrame]]:
        """Decode on from here, or from the keyframe before `leap_to`; yield each picture with its time."""
        if leap_to is not None:
            self._leap(leap_to)
        time = -self.interval
        for packet in self._packets():
            try:
                pictures = packet.decode()
            except av.FFmpegError:
                continue
            for picture in pictures:
                self.decoded += 1
                _refuse_too_much_work(self.path, self.decoded, picture)
                if self.start is None:
                    self.start = picture.pts
                if self.start is None or picture.pts is None:
                    time += self.interval
                else:
                    time = (picture.pts - self.start) * self.unit
                yield time, picture

    def end_by_index(self) -> float | None:
        """Find the end of the last picture by reading from the last keyframe on; None where that is not possible."""
        if not self.indexed or self.start is None or self.container.duration is None:
            return None
        self._leap(self.container.duration / av.time_base)
        count, end = self.read_on(self.start)
        return end if count else None

    def read_on(self, start: int | None) -> tuple[int, float]:
        """Read to the end without decoding; return how many pictures that were, and the end of the last in seconds."""
        count, end, latest, whole = 0, 0.0, -math.inf, True
        for packet in self._packets():
            if not packet.size:
                continue  # the mark of the end
            count += 1
            if count > MAX_PICTURES:
                raise InvalidInput(f"{self.path.name} has more than {MAX_PICTURES} pictures; give a shorter clip")
            whole = not packet.is_corrupt
            moment = packet.dts if packet.pts is None else packet.pts
            if start is None or moment is None:
                end += self.interval
            else:
                latest = max(latest, moment)
                stays = packet.duration * self.unit if packet.duration else self.interval
                end = max(end, (moment - start) * self.unit + stays)
        index = self.stream.index_entries
        promised = index[-1].timestamp if self.indexed and len(index) else -math.inf
        if not (whole and self.readable) or (count and latest < promised):
            raise InvalidInput(
                f"{self.path.name} breaks off {end:.1f} s after its start; give the whole file, or save what there is "
                "anew (ffmpeg -i BROKEN -c copy NEW)"
            )
        return count, end

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        try:
            yield from self.container.demux(self.stream)
        except av.FFmpegError:
            self.readable = False
        except IndexError:
            return  # PyAV 18.1 at the very end of an MPEG stream in which another stream turned up on the way

    def _leap(self, time: float) -> None:
        # 2**62: a file may claim any times, and libav counts them in 64 bits.
        target = min((self.start or 0) + int(time / self.unit), 2**62)
        try:
            self.container.seek(target, stream=self.stream)
        except av.FFmpegError:
            self.readable = False


@contextmanager
def _opened(path: Path) -> Iterator[_Clip]:
    """Open a file by its content and choose its video stream; raise InvalidInput if it has none, or a too large one."""
    please = "give an MP4, WebM, MOV, MKV, AVI or GIF file"
    if not path.is_file():
        raise InvalidInput(f"{path.name} is no file; {please}")
    limits = {"max_pixels": str(MAX_PIXELS)}  # also where the container's header lies about the size, or has none
    guards = {"format_whitelist": ",".join(INDEXED + OTHERS + PICTURES), "protocol_whitelist": "fd"}
    with path.open("rb", buffering=0) as file:
        # By its descriptor, so that libav has no name to choose a demuxer by; not as a Python object, since a Cancel
        # that struck in one of its methods, beneath libav, would be lost.
        source = {"fd": str(file.fileno())}
        try:
            container = av.open("fd:", options=source | guards | limits, metadata_errors="replace")
        except av.FFmpegError as error:
            size = path.stat().st_size
            raise InvalidInput(f"{path.name} ({size} bytes) is damaged or no video; {please}") from error
        with container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
                other = "sound" if container.streams.audio else "other data"
                raise InvalidInput(f"{path.name} has no video in it, only {other}; {please}")
            if stream.codec_context is None:
                raise InvalidInput(f"{path.name} has video of a kind that cannot be decoded; {please}, coded as H.264")
            width, height = stream.codec_context.width, stream.codec_context.height
            if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
                raise InvalidInput(
                    f"{path.name} is {width}x{height} pixels; at most {MAX_SIDE} a side and "
                    f"{MAX_PIXELS / 1e6:.0f} megapixels are allowed: scale it down"
                )
            stream.codec_context.options = limits
            yield _Clip(path, container, stream)


def _refuse_too_much_work(path: Path, num_pictures: int, picture: av.VideoFrame) -> None:
    if num_pictures * picture.width * picture.height > MAX_DECODED:
        raise InvalidInput(
            f"{path.name} is too much work, {num_pictures} pictures of {picture.width}x{picture.height} to decode; at "
            f"most {MAX_DECODED // 10**9} gigapixels are allowed: give a shorter or smaller clip, or an MP4 with a "
            "keyframe every few seconds"
        )
