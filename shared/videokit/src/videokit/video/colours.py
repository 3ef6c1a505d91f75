"""The filters that convert a file's colours to RGB: by its matrix and range, HDR (PQ, HLG) tone-mapped to BT.709."""

from __future__ import annotations

import re

UNKNOWN = ("unknown", "reserved")
SWSCALE = ("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc", "gbr", *UNKNOWN)  # of the filter scale
ZSCALE = ("ictcp", "ycgco", "chroma-derived-nc")
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
MAX_HDR_SIDE = 2048  # pixels, because each pixel takes 12 bytes
TO_SDR = (
    "zscale=w={}:h={}:t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.8:desat=0,"
    "zscale=t=bt709:m=gbr:r=full,format=gbrp,format=rgb24"
)


def is_yuv(layout: str) -> bool:
    """Return whether a matrix applies to a pixel format."""
    return re.match(r"a?yuv|nv\d|p\d|v?uy|yvy|y2|xv", layout) is not None


def colour_filters(
    layout: str, matrix: str, primaries: str, transfer: str, size: tuple[int, int]
) -> tuple[str, str | None]:
    """Return the filters to RGB or RGBA, and PQ or HLG if they tone-map; raise ValueError for an unsupported matrix.

    `layout` is the pixel format. All names are ffmpeg's.
    """
    hdr = HDR.get(transfer) if is_yuv(layout) else None
    if matrix not in SWSCALE + ZSCALE or (matrix == "ictcp" and not hdr):
        raise ValueError(f"matrix {matrix}")
    if matrix in UNKNOWN:  # as players do: haasn/libplacebo src/colorspace.c, pl_color_system_guess_ycbcr
        matrix = "bt2020nc" if hdr else "bt709" if size[0] >= 1280 or size[1] > 576 else "smpte170m"
    filters = f"setparams=colorspace={matrix}" if is_yuv(layout) else "null"
    if hdr:
        scale = min(1, MAX_HDR_SIDE / max(size))
        filters += ":color_primaries=bt2020" if primaries in UNKNOWN else ""
        return f"{filters},{TO_SDR.format(*(round(side * scale) for side in size))}", hdr
    if is_yuv(layout) and matrix in ZSCALE:
        return f"{filters},zscale=m=gbr:r=full,format=gbrp,format=rgb24", None
    return f"{filters},scale=flags=bilinear+accurate_rnd+full_chroma_int,format=rgb24|rgba", None
