"""One frame in, one PNG out, with its provenance: for pictures that are shown while a clip is being made."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from PIL import Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from pathlib import Path

    from videokit.video.frames import Frame
    from videokit.video.provenance import Provenance

XMP = "XML:com.adobe.xmp"  # XMP specification part 3, 1.1.5: the keyword of the iTXt chunk


def write_png(frame: Frame, path: Path, provenance: Provenance) -> Path:
    """Write a frame, (H, W, 3) uint8, and return `path`, where it appears when it is whole, or not at all."""
    notes = PngInfo()
    notes.add_text("Comment", provenance.comment())
    notes.add_itxt(XMP, provenance.xmp().decode())
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        Image.fromarray(frame).save(part, "PNG", pnginfo=notes)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
