"""Processes of the ffmpeg program that read one untrusted file: what they may open, and how much they may use."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

from videokit.errors import InvalidInput
from videokit.video.ffmpeg import Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_SIDE = 8192  # pixels
MAX_PIXELS = 4096 * 4096  # every 4K format
LARGEST = f"{MAX_SIDE} pixels a side or {MAX_PIXELS / 1e6:.0f} megapixels"
MAX_DECODED = 20_000_000_000  # pixels of a clip, about 20 s of work; 5 minutes of 1920x1080 at 30 fps
MAX_PICTURES = 250_000  # of a clip whose pictures must be counted; over 2 hours at 30 fps
LIMITS = ((resource.RLIMIT_AS, 1_600_000_000), (resource.RLIMIT_CPU, 90))  # bytes and seconds of each process
MAX_SECONDS = 120  # of waiting for each process
ADVICE = "give an MP4, WebM, MOV, MKV, AVI or GIF file"

# The allowed demuxers; the program picks one by content. Playlists (HLS, DASH), concat lists, SDP, SVG, numbered
# pictures and all other demuxers that open a second file or an address are excluded.
MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # have an index with the times of their keyframes
STILLS = ("png_pipe", "webp_pipe", "jpeg_pipe", "mjpeg")
FORMATS = (
    f"{MOV},{MATROSKA},{','.join(STILLS)},avi,flv,asf,ogg,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,gif,apng,webp_anim"
)
DECODERS = (
    "h264,hevc,vvc,av1,libdav1d,vp8,vp9,libvpx,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,"
    "h261,h263,flv,vp6,vp6f,vp6a,wmv1,wmv2,wmv3,vc1,theora,svq1,svq3,cinepak,rpza,qtrle,dvvideo,prores,dnxhd,cfhd,"
    "ffv1,huffyuv,ffvhuff,utvideo,magicyuv,rawvideo,v210,r210,mjpeg,jpeg2000,png,apng,gif,webp,webp_anim"
)
GUARDS = ("-protocol_whitelist", "fd", "-format_whitelist", FORMATS, "-codec_whitelist", DECODERS,
          "-max_pixels", str(MAX_PIXELS), "-threads", "2", "-reinit_filter", "0")  # fmt: skip


@contextmanager
def reading(path: Path, options: Sequence[str], *output: str) -> Iterator[Process]:
    """Run the program on an open file, so that it has no name to choose a demuxer by, with limits."""
    with path.open("rb", buffering=0) as file:
        arguments = [*GUARDS, *options, "-i", "fd:", *output]
        try:
            with Process(arguments, source=file, loglevel="info", limits=LIMITS, seconds=MAX_SECONDS) as process:
                yield process
        except TimeoutError as error:
            raise InvalidInput(f"{path.name} takes too long to decode; give a shorter or smaller clip") from error


def check_work(path: Path, num_pictures: int, size: tuple[int, int]) -> None:
    """Raise InvalidInput if pictures of this size are too large, or so many take too long to decode."""
    if max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS:
        raise InvalidInput(f"{path.name} is {size[0]}x{size[1]}, over {LARGEST}; scale it down")
    if num_pictures > MAX_PICTURES:
        raise InvalidInput(f"{path.name} has more than {MAX_PICTURES} pictures; give a shorter clip")
    if num_pictures * size[0] * size[1] > MAX_DECODED:
        raise InvalidInput(
            f"{path.name} takes too long to decode ({num_pictures} pictures of {size[0]}x{size[1]}); at most "
            f"{MAX_DECODED // 10**9} gigapixels are allowed: give a shorter or smaller clip, or an MP4 with a keyframe "
            "every few seconds"
        )
