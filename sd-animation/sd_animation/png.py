"""PNG files with provenance, for the frames that are shown while an animation is being made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import imageio.v3 as iio
from PIL.PngImagePlugin import PngInfo
from videokit.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from videokit.video.frames import Frame
    from videokit.video.provenance import Provenance

XMP = "XML:com.adobe.xmp"  # XMP specification part 3, 1.1.5: the keyword of the iTXt chunk


def write_png(frame: Frame, path: Path, provenance: Provenance) -> Path:
    """Write a frame, (H, W, 3) uint8, to a PNG file that appears whole or not at all, and return its path."""
    chunks = PngInfo()
    chunks.add_text("Comment", provenance.comment())
    chunks.add_itxt(XMP, provenance.xmp().decode())
    with atomic_write(path) as part:
        iio.imwrite(part, frame, extension=".png", plugin="pillow", pnginfo=chunks)
    return path
