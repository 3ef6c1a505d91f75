"""Decoding of a user's video, GIF or picture: a given number of frames of a given size, for a model's video input.

Frame i is the picture on screen at (i + 0.5) * duration / num_frames, the middle of the i-th of `num_frames` equal
parts of the clip. n frames of a clip with a constant rate and n pictures are those n pictures. Presentation times are
used, so variable frame rates are right. Pictures are not blended.

The ffmpeg program decodes. Colours follow the file's matrix and range; HDR (PQ, HLG) is tone-mapped to BT.709. Pictures
are rotated and mirrored by their display matrix, cropped by their container, and deinterlaced if their stream is
interlaced. Pixels that are not square are stretched. Transparency (GIF, PNG, WebP, WebM) is composited over black.

Files are not trusted. The program reads one open file, with limits of memory and time. It opens no other file and no
address. A packet that cannot be decoded is skipped, as in a player. A truncated file raises InvalidInput.
"""

from __future__ import annotations

import logging
import math
import re
from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from videokit.checks import check_range
from videokit.errors import InvalidInput, raise_faults
from videokit.video.probe import Clip, VideoInfo, probe, read_clip, seek_options
from videokit.video.reading import MAX_SIDE, check_work, reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction
    from pathlib import Path

    from videokit.video.frames import Frame

__all__ = ["VideoInfo", "decode", "probe"]

logger = logging.getLogger("videokit")

LARGE = 2560 * 1440  # pixels; larger pictures are scaled to twice the size of a frame before they leave the program
STEPS_BACK = (0, 2, 20)  # seconds; an index may lead to a later keyframe
Picture = tuple[str, tuple[int, int], bytes]  # mode, size and pixels, as Pillow has them
PAM = ("-c:v", "pam", "-f", "image2pipe", "pipe:1")


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
    return _frames(read_clip(path, num_frames), num_frames, width, height)


def _frames(clip: Clip, num_frames: int, width: int, height: int) -> Iterator[Frame]:
    previous, times, decoded = None, set(), 0
    scale = 2 * max(width / clip.width, height / clip.height)
    if (
        scale < 1 and clip.width * clip.height > LARGE and "zscale" not in clip.colours
    ):  # the program holds up to 16 pictures
        clip = replace(clip, colours=f"scale=iw*{scale}:ih*{scale}:flags=area,{clip.colours}")
    pictures = _pictures_by_seeking(clip, num_frames) if clip.seeks else _pictures_in_order(clip, num_frames)
    for index, (picture, time, count) in enumerate(pictures):
        times.add(time)
        decoded += count
        if picture != previous:
            previous, image = picture, _fit(picture, clip.pixel_aspect, width, height)
        if index == num_frames - 1:
            logger.info(
                f"decode: {num_frames} frames {width}x{height} from {clip.path.name} ({clip.codec} {clip.width}x"
                f"{clip.height}, {clip.duration:.2f} s): {len(times)} different pictures of {decoded} decoded"
                + ("; it has too few, so some are repeated" if len(times) < num_frames else "")
                + (f"; {clip.hdr} tone-mapped to BT.709" if clip.hdr else "")
            )
        yield np.array(image)


def _pictures_in_order(clip: Clip, num_frames: int, skipped: int = 0) -> Iterator[tuple[Picture, int, int]]:
    """Yield the picture of each frame but the first `skipped`, its time and how many were decoded for it."""
    first, ticks = clip.times[0], clip.end - clip.times[0]
    # The odd ones of 2 n ticks are the middles. round=up gives the last picture that is not later than a tick. A copy
    # of the last picture is moved behind the end, because fps drops a picture that shares its tick with the end.
    rate = f"{2 * num_frames * clip.tick.denominator}/({ticks * clip.tick.numerator})"
    selection = (
        f"settb={clip.tick},setpts=PTS-({first}),tpad=stop=1:stop_mode=clone,"
        f"setpts='if(gt(PTS,{clip.times[-1] - first}),PTS+{ticks},PTS)',fps={rate}:round=up:start_time=0,"
        f"tpad=stop=-1:stop_mode=clone,trim=start_frame={2 * skipped + 1}:end_frame={2 * num_frames},framestep=2,"
    )
    output = ["-map", "0:V:0", "-vf", clip.deinterlace + selection + clip.colours, "-fps_mode", "passthrough", *PAM]
    if clip.tiled:  # the program composes them if nothing else is selected
        output = ["-frames:v", "1", "-pix_fmt", "rgb24", *PAM]
    count = len(clip.times)
    with reading(clip.path, clip.decoder, *output) as process:
        picture = None
        for index in range(skipped, num_frames):
            if not (clip.tiled and picture):
                picture = _read_picture(process.stdout)
            if picture is None:
                raise InvalidInput(
                    f"{clip.path.name} has no picture that can be decoded for frame {index}: it is damaged, or takes "
                    "more time or memory than is allowed; give another file"
                )
            shown = bisect_right(clip.times, first + (2 * index + 1) * ticks // (2 * num_frames))
            yield picture, clip.times[shown - 1], count
            count = 0


def _pictures_by_seeking(clip: Clip, num_frames: int) -> Iterator[tuple[Picture, int, int]]:
    """Yield the picture of each frame, its time and how many were decoded for it, each from the keyframe before it."""
    first, ticks = clip.times[0], clip.end - clip.times[0]
    times = [first + (2 * index + 1) * ticks // (2 * num_frames) for index in range(num_frames)]
    total = 0
    for index, time in enumerate(times):
        decoded = 0
        for step in STEPS_BACK:
            picture, shown, count = _search(clip, time, step)
            decoded += count
            check_work(clip.path, total + decoded, (clip.width, clip.height))
            if picture:
                break
        else:  # the index is wrong: decode without it
            yield from _pictures_in_order(
                replace(read_clip(clip.path, math.inf), colours=clip.colours), num_frames, skipped=index
            )
            return
        total += decoded
        yield picture, shown, decoded


def _search(clip: Clip, time: int, step: int) -> tuple[Picture | None, int, int]:
    """Return the picture on screen at `time`, or None, its time, and how many pictures were decoded.

    Decoding starts at a keyframe `step` seconds before `time`.
    """
    selection = f"settb={clip.tick},setpts=PTS-({time}),showinfo=checksum=0,fps=1:round=up:start_time=0,"
    output = ["-map", "0:V:0", "-vf", clip.deinterlace + selection + clip.colours, "-frames:v", "1"]
    options = (*clip.decoder, *seek_options(time * clip.tick - step))
    with reading(clip.path, options, *output, "-fps_mode", "passthrough", *PAM, loglevel="info") as process:
        picture = _read_picture(process.stdout)
        log = process.log()
    times = [
        int(found) for found in re.findall(r"^\[Parsed_showinfo_\d+ @ \w+\] n: *\d+ pts: *(-?\d+) ", log, re.MULTILINE)
    ]
    late = not times or times[0] > 0
    return None if late else picture, time + max((found for found in times if found <= 0), default=0), len(times)


def _read_picture(stream: BinaryIO) -> Picture | None:
    """Return the next PAM picture, or None at the end."""
    header = {}
    for line in iter(stream.readline, b"ENDHDR\n"):
        if not line:
            return None
        name, _, value = line.partition(b" ")
        header[name] = value
    width, height, depth = (int(header[name]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH"))
    pixels = stream.read(width * height * depth)
    return ("RGBA" if depth == 4 else "RGB", (width, height), pixels) if len(pixels) == width * height * depth else None


def _fit(picture: Picture, pixel_aspect: Fraction, width: int, height: int) -> Image.Image:
    """Return an image scaled to cover width x height, cropped at its centre, composited over black."""
    image = Image.frombuffer(*picture)
    aspect = width / height / float(pixel_aspect)  # of the crop, in stored pixels
    wide, high = min(image.width, image.height * aspect), min(image.height, image.width / aspect)
    left, top = (image.width - wide) / 2, (image.height - high) / 2
    image = image.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + wide, top + high))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image
