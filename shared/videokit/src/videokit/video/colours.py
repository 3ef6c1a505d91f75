"""ffmpeg's filters from a file's colours to RGB: by its matrix and range, HDR (PQ, HLG) tone-mapped to BT.709."""

from __future__ import annotations

UNKNOWN = ("unknown", "reserved")
SWSCALE = ("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc", "gbr", *UNKNOWN)  # of the filter scale
ZSCALE = ("ictcp", "ycgco", "chroma-derived-nc")
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
# Each pixel takes 12 bytes, so the longer side is scaled to 2048.
TO_SDR = (
    ",zscale=w='round(iw*min(1,2048/max(iw,ih)))':h='round(ih*min(1,2048/max(iw,ih)))':t=linear:npl=203,format=gbrpf32le,"
    "zscale=p=bt709,tonemap=mobius:param=0.8:desat=0,zscale=t=bt709:m=gbr:r=full,format=gbrp,format=rgb24"
)
BY_ZSCALE = ",zscale=m=gbr:r=full,format=gbrp,format=rgb24"
BY_SWSCALE = ",scale=flags=bilinear+accurate_rnd+full_chroma_int,format=rgb24|rgba"


def colour_filters(matrix: str, primaries: str, transfer: str, size: tuple[int, int]) -> tuple[str, str | None]:
    """Return the filters to RGB or RGBA, and PQ or HLG if they tone-map; raise ValueError for an unsupported matrix."""
    hdr = HDR.get(transfer)
    if matrix not in SWSCALE + ZSCALE or (matrix == "ictcp" and not hdr):
        raise ValueError(f"matrix {matrix}")
    if matrix in UNKNOWN:  # as players do: haasn/libplacebo src/colorspace.c, pl_color_system_guess_ycbcr
        matrix = "bt2020nc" if hdr else "bt709" if size[0] >= 1280 or size[1] > 576 else "smpte170m"
    filters = f"setparams=colorspace={matrix}"
    if hdr:
        return filters + (":color_primaries=bt2020" if primaries in UNKNOWN else "") + TO_SDR, hdr
    return filters + (BY_ZSCALE if matrix in ZSCALE else BY_SWSCALE), None
