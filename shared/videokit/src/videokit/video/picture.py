"""Conversion of one decoded picture to an upright RGB image: colours, transparency, orientation, crop.

`decode` selects the pictures of a clip and checks the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation
from PIL import Image

from videokit.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

UNTAGGED = (2, 3)  # AVCOL_SPC_UNSPECIFIED and AVCOL_SPC_RESERVED of libavutil/pixfmt.h
ACCURATE = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def fit(picture: av.VideoFrame, path: Path, pixel_aspect: float, width: int, height: int) -> Image.Image:
    """Return an upright image: scaled to cover width x height, cropped at its centre, composited over black."""
    turned, left_right, top_bottom = orientation(picture)
    size = (height, width) if turned else (width, height)
    image = to_image(picture, path)
    aspect = size[0] / size[1] / pixel_aspect  # of the crop, in stored pixels
    wide, high = min(image.width, image.height * aspect), min(image.height, image.width / aspect)
    left, top = (image.width - wide) / 2, (image.height - high) / 2
    image = image.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + wide, top + high))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", size, "black"), image).convert("RGB")
    if turned:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    if left_right:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if top_bottom:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image


def orientation(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return whether the display matrix exchanges x and y, then left and right, then top and bottom.

    The matrix is a, b, u, c, d, v, x, y, w and maps a stored point to (a x + c y, b x + d y) (ISO/IEC 14496-12, 8.3.2).
    Any other rotation is replaced by the nearest quarter turn.
    """
    # Read from a thumbnail: side_data makes a reference cycle with its picture, so large pictures would fill the memory
    # until the garbage collector runs.
    thumbnail = picture.reformat(8, 8, "rgb24", Colorspace.ITU601, interpolation=Interpolation.POINT, threads=1)
    try:
        matrix: Any = thumbnail.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV 18.1 cannot list the EXIF data of photographs. It has their rotation, not their mirroring.
        upright = (False, False, False)
        turns = {90: (True, False, True), -180: (False, True, True), -90: (True, True, False)}
        return turns.get(picture.rotation, upright)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = (int(n) for n in np.frombuffer(matrix, np.int32)[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def to_image(picture: av.VideoFrame, path: Path) -> Image.Image:
    """Return an RGB image, or RGBA for a picture with transparency; the size decides the matrix of untagged YUV."""
    transparent = picture.format.has_palette or any(part.is_alpha for part in picture.format.components)
    matrix = None
    if picture.colorspace in UNTAGGED:  # as players do: haasn/libplacebo src/colorspace.c, pl_color_system_guess_ycbcr
        matrix = Colorspace.ITU709 if picture.width >= 1280 or picture.height > 576 else Colorspace.ITU601
    try:
        rgb = picture.reformat(
            format="rgba" if transparent else "rgb24", src_colorspace=matrix, interpolation=ACCURATE, threads=1
        )
    except av.FFmpegError as error:
        raise InvalidInput(
            f"{path.name} has colours ({picture.format.name}, matrix {picture.colorspace}) that cannot be converted; "
            "give it as H.264 in BT.709"
        ) from error
    return Image.fromarray(rgb.to_ndarray())
