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
import re
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from videokit.checks import check_range
from videokit.errors import InvalidInput, raise_faults
from videokit.video.probe import Clip, probe, seek_options
from videokit.video.reading import MAX_SIDE, check_work, reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from fractions import Fraction
    from pathlib import Path

    from videokit.video.ffmpeg import Process
    from videokit.video.frames import Frame

logger = logging.getLogger("videokit")

LARGE = 2560 * 1440  # pixels; larger pictures are scaled to twice the size of a frame before they leave the program
STEPS_BACK = (0, 2, 20)  # seconds; an index may lead to a later keyframe
Picture = tuple[str, tuple[int, int], bytes]  # mode, size and pixels, as Pillow has them
PAM = ("-fps_mode", "passthrough", "-c:v", "pam", "-f", "image2pipe", "pipe:1")


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
    return _frames(probe(path, num_frames), num_frames, width, height)


def _frames(clip: Clip, num_frames: int, width: int, height: int) -> Iterator[Frame]:
    scale = 2 * max(width / clip.width, height / clip.height)
    if scale < 1 and clip.width * clip.height > LARGE and "zscale" not in clip.colours:  # it holds up to 16 pictures
        clip = replace(clip, colours=f"scale=iw*{scale}:ih*{scale}:flags=area,{clip.colours}")
    previous, different = None, 0
    pictures = _pictures_by_seeking(clip, num_frames) if clip.seeks else _pictures_in_order(clip, num_frames)
    for index, (picture, decoded) in enumerate(pictures):
        if picture is None:
            raise InvalidInput(
                f"{clip.path.name} has no picture that can be decoded for frame {index}: it is damaged, or takes more "
                "time or memory than is allowed; give another file"
            )
        if picture != previous:
            different += 1
            previous, image = picture, _fit(picture, clip.pixel_aspect, width, height)
        if index == num_frames - 1:
            logger.info(
                f"decode: {num_frames} frames {width}x{height} from {clip.path.name} ({clip.codec} {clip.width}x"
                f"{clip.height}, {clip.duration:.2f} s): {different} different pictures of {decoded} decoded"
                + (", so some are repeated" if different < num_frames else "")
                + (f"; {clip.hdr} tone-mapped to BT.709" if clip.hdr else "")
            )
        yield np.array(image)


def _pictures_in_order(clip: Clip, num_frames: int) -> Iterator[tuple[Picture | None, int]]:
    """Yield the picture of each frame, or None, and how many are decoded."""
    selection = "loop=loop=-1:size=1,"  # of a single picture
    if clip.num_frames > 1:
        # The odd ones of 2 n ticks are the middles. A picture's time becomes its first tick that is not earlier; of
        # those with one tick, fps gives the last. A copy of the last picture is moved to the end, because fps drops a
        # picture that shares its tick with the end.
        tick = f"ceil({2 * num_frames}*(PTS-({clip.first}))/{clip.end - clip.first})"
        selection = (
            f"settb={clip.tick},tpad=stop=1:stop_mode=clone,setpts='if(gt(PTS,{clip.last}),{2 * num_frames},{tick})',"
            f"fps=1/({clip.tick}):start_time=0,tpad=stop=-1:stop_mode=clone,trim=start_frame=1,framestep=2,"
        )
    with _reading(clip, selection, num_frames) as process:
        for _ in range(num_frames):
            yield _read_picture(process.stdout), clip.num_frames


def _pictures_by_seeking(clip: Clip, num_frames: int) -> Iterator[tuple[Picture | None, int]]:
    """Yield the picture of each frame, or None, decoded from the keyframe before it, and how many were decoded."""
    decoded = 0
    for index in range(num_frames):
        middle = clip.first + (2 * index + 1) * (clip.end - clip.first) // (2 * num_frames)
        time = min(middle, clip.last)
        selection = f"settb={clip.tick},setpts=PTS-({time}),showinfo=checksum=0,fps=1:round=up:start_time=0,"
        for step in STEPS_BACK:
            with _reading(clip, selection, 1, *seek_options(time * clip.tick - step)) as process:
                picture = _read_picture(process.stdout)
                log = process.log()
            times = re.findall(r"^\[Parsed_showinfo_\d+ @ \w+\] n: *\d+ pts: *(-?\d+) ", log, re.MULTILINE)
            decoded += len(times)
            check_work(clip.path, decoded, clip.size)
            if picture and int(times[0]) <= 0:
                break
        else:
            picture = None  # the index is wrong
        yield picture, decoded


def _reading(clip: Clip, selection: str, num_frames: int, *options: str) -> AbstractContextManager[Process]:
    filters = f"[{clip.source}]{clip.filters}{selection}{clip.colours}"
    output = ("-filter_complex", filters, "-frames:v", str(num_frames), *PAM)
    return reading(clip.path, (*clip.decoder, *options), *output)


def _read_picture(stream: BinaryIO) -> Picture | None:
    """Return the next PAM picture, or None at the end."""
    header = [stream.readline().split() for _ in range(7)]  # P7, WIDTH, HEIGHT, DEPTH, MAXVAL, TUPLTYPE, ENDHDR
    if not header[-1]:
        return None
    width, height, depth = (int(line[1]) for line in header[1:4])
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
