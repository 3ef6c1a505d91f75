"""The properties of a clip and the times of its pictures, from what the ffmpeg program prints."""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from videokit.errors import InvalidInput
from videokit.video.ffmpeg import Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_SIDE = 8192  # pixels
MAX_PIXELS = 4096 * 4096  # every 4K format
MAX_DECODED = 20_000_000_000  # pixels of a clip, about 20 s of work; 5 minutes of 1920x1080 at 30 fps
MAX_PICTURES = 250_000  # of a clip whose pictures must be counted; over 2 hours at 30 fps
WIDE_GAP = 1  # seconds between frames; shorter gaps are decoded
HEAD = 128  # pictures that are listed first
LIMITS: dict[str, Any] = {"memory": 1_600_000_000, "cpu_seconds": 90, "seconds": 120}  # bytes, and of each process
ADVICE = "give an MP4, WebM, MOV, MKV, AVI or GIF file"

# The allowed demuxers; the program picks one by content. Playlists (HLS, DASH), concat lists, SDP, SVG, numbered
# pictures and all other demuxers that open a second file or an address are excluded.
MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # have an index with the times of their keyframes
STILLS = ("png_pipe", "webp_pipe", "jpeg_pipe", "mjpeg")
OTHERS = "avi,flv,asf,ogg,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,gif,apng,webp_anim"
FORMATS = ",".join((MOV, MATROSKA, *STILLS, OTHERS))
DECODERS = (
    "h264,hevc,vvc,av1,libdav1d,vp8,vp9,libvpx,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,"
    "h261,h263,flv,vp6,vp6f,vp6a,wmv1,wmv2,wmv3,vc1,theora,svq1,svq3,cinepak,rpza,qtrle,dvvideo,prores,dnxhd,cfhd,"
    "ffv1,huffyuv,ffvhuff,utvideo,magicyuv,rawvideo,v210,r210,mjpeg,jpeg2000,png,apng,gif,webp,webp_anim"
)
GUARDS = ("-protocol_whitelist", "fd", "-format_whitelist", FORMATS, "-codec_whitelist", DECODERS,
          "-max_pixels", str(MAX_PIXELS), "-threads", "2", "-reinit_filter", "0")  # fmt: skip
KEY, CORRUPT, HIDDEN, NO_TIME = 1, 2, 4, -(2**63)  # AV_PKT_FLAG_KEY, _CORRUPT and _DISCARD, AV_NOPTS_VALUE

UNKNOWN = ("unknown", "reserved")
SWSCALE = ("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc", "gbr", *UNKNOWN)  # of the filter scale
ZSCALE = ("ictcp", "ycgco", "chroma-derived-nc")
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
TO_SDR = (  # at most 2048 pixels a side, because each pixel takes 12 bytes
    "zscale=w={}:h={}:t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.8:desat=0,"
    "zscale=t=bt709:m=gbr:r=full,format=gbrp,format=rgb24"
)


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Clip(VideoInfo):
    """A clip and how the program reads it right. Times are in ticks after the start of the file."""

    tick: Fraction  # seconds
    times: Sequence[int]  # of the pictures, ascending; of the first ones if `num_frames` is None
    end: int  # of the last picture
    seeks: bool  # whether its frames are so far apart that decoding all is more work
    pixel_aspect: Fraction
    tiled: bool
    hdr: str | None  # PQ or HLG
    decoder: Sequence[str]
    deinterlace: str  # filters before the selection of pictures
    colours: str  # filters after it


@dataclass
class _Packets:
    """The packets of a video stream as far as they were read, and what the program printed."""

    log: str
    codec: str
    tick: Fraction
    times: list[int]  # of the packets that are shown, ascending
    exact: bool  # each packet has a time of its own
    end: int
    count: int  # of all packets
    corrupt: bool  # the last one
    keyframe_interval: Fraction  # seconds


def probe(path: Path) -> VideoInfo:
    """Return the facts of a clip and decode its first picture only; raise InvalidInput if it cannot be used."""
    return read_clip(path, 0)


def read_clip(path: Path, num_frames: float) -> Clip:
    """Return a clip whose first picture can be decoded. Its pictures are all listed if `num_frames` need them."""
    if not path.is_file():
        raise InvalidInput(f"{path.name} is not a file; {ADVICE}")
    first = ("-map", "0:V:0", "-frames:v", "1", "-vf", "showinfo=checksum=0", "-f", "null", "-")
    head = packets = _list_packets(path, HEAD, *first)
    kind, size, facts = _describe(path, head)
    if facts["tiled"] or (kind in STILLS and head.count <= 4):  # those behind a photograph are previews and gain maps
        time = (head.times or [0])[0]
        return Clip(**facts, times=[time], end=time + 1, num_frames=1, duration=float(head.tick), seeks=False)
    length = re.search(r"^  Duration: (\d+):(\d+):([\d.]+), start: ([-\d.]+)", head.log, re.MULTILINE)
    stated = Fraction(0)
    if length:
        stated = 3600 * int(length[1]) + 60 * int(length[2]) + Fraction(length[3])
        stated -= Fraction(length[4]) if kind == MATROSKA else 0  # it counts from 0
    seeks = head.count == HEAD and kind in (MOV, MATROSKA) and stated > num_frames * WIDE_GAP
    if seeks and not head.keyframe_interval:  # x264 sets a keyframe every 250 pictures
        head = _list_packets(path, 4 * HEAD)
    seeks = seeks and head.keyframe_interval > 0 and stated > num_frames * head.keyframe_interval
    tail = _list_packets(path, 8 * HEAD, seek=stated - 1) if seeks else head
    if not (seeks and tail.exact and tail.count < 8 * HEAD and not tail.corrupt):
        packets = tail = packets if packets.count < HEAD else _list_packets(path, MAX_PICTURES + 1)
        check_work(path, packets.count, size)
    times, end = packets.times, tail.end
    if not packets.exact and packets is tail:
        times = _decoded_times(path, facts["decoder"], head.tick)
        end = times[-1] + max(1, round((times[-1] - times[0]) / max(1, len(times) - 1)))
        if kind == MOV and abs((end - times[0]) * head.tick - stated) > 0.25:
            raise InvalidInput(
                f"{path.name} was cut by an edit list that ffmpeg cannot follow; export it again, encoded"
            )
    sound = _list_packets(path, 0, stream="a") if kind == MOV and stated > end * head.tick + 0.5 else None
    missing = sound is not None and stated > sound.end * sound.tick + 0.5
    if tail.corrupt or missing or (stated and "File ended prematurely" in tail.log):
        raise InvalidInput(
            f"{path.name} is truncated {float((end - times[0]) * head.tick):.1f} s after its start; give the complete "
            "file, or repair it (ffmpeg -i TRUNCATED -c copy REPAIRED)"
        )
    ticks = round(stated / head.tick)
    if (kind == MATROSKA and ticks > 2 * end - tail.times[-1]) or (kind == MOV and tail.times[-1] < ticks < end):
        end = ticks  # the last picture stands still, or an edit list cuts it
    return Clip(
        **facts, times=times, end=end, num_frames=len(times) if packets is tail else None,
        duration=float((end - times[0]) * head.tick), seeks=seeks,
    )  # fmt: skip


def check_work(path: Path, num_pictures: int, size: tuple[int, int]) -> None:
    """Raise InvalidInput if so many pictures of this size take too long to decode."""
    if num_pictures > MAX_PICTURES:
        raise InvalidInput(f"{path.name} has more than {MAX_PICTURES} pictures; give a shorter clip")
    if num_pictures * size[0] * size[1] > MAX_DECODED:
        raise InvalidInput(
            f"{path.name} takes too long to decode ({num_pictures} pictures of {size[0]}x{size[1]}); at most "
            f"{MAX_DECODED // 10**9} gigapixels are allowed: give a shorter or smaller clip, or an MP4 with a keyframe "
            "every few seconds"
        )


@contextmanager
def reading(path: Path, options: Sequence[str], *output: str, loglevel: str = "error") -> Iterator[Process]:
    """Run the program on an open file, so that it has no name to choose a demuxer by, with limits."""
    with path.open("rb", buffering=0) as file:
        arguments = [*GUARDS, *options, "-i", "fd:", *output]
        try:
            with Process(arguments, stdin=file, loglevel=loglevel, **LIMITS) as process:
                yield process
        except TimeoutError as error:
            raise InvalidInput(f"{path.name} takes too long to decode; give a shorter or smaller clip") from error


def _list_packets(path: Path, limit: int, *output: str, seek: Fraction | None = None, stream: str = "V") -> _Packets:
    """Return up to `limit` packets of the first video stream that is not a cover, from the keyframe before `seek`."""
    options = () if seek is None else seek_options(seek)
    copy = f"-map 0:{stream}:0 -c copy -copyinkf -copypriorss 1 -frames:v {limit} -f framecrc pipe:1".split()
    times, keyframes, end, count, flags, header = [], [], 0, 0, 0, {b"tb 0": b"1", b"codec_id 0": b""}
    with reading(path, options, *copy, *output, loglevel="info") as process:
        for line in process.stdout:
            if line.startswith(b"#"):
                name, _, value = line[1:].partition(b": ")
                header[name] = value.strip()
                continue
            _, _, time, duration, size, _, *rest = line.split(b",")
            flags = int(rest[0][3:], 16) if rest and rest[0].startswith(b" F=") else KEY
            count += 1
            if not flags & HIDDEN and int(size):
                times.append(int(time))
                keyframes += times[-1:] * (flags & KEY)
                end = max(end, int(time) + int(duration))
        process.wait()
        log = process.log()
    exact = len(set(times)) == len(times) > 0 and NO_TIME not in times
    tick = Fraction(header[b"tb 0"].decode())
    interval = (keyframes[-1] - keyframes[0]) * tick / (len(keyframes) - 1) if len(keyframes) > 1 else Fraction(0)
    times = sorted(time for time in times if time != NO_TIME)
    return _Packets(
        log, header[b"codec_id 0"].decode(), tick, times, exact, end, count, bool(flags & CORRUPT), interval
    )


def seek_options(time: Fraction) -> Sequence[str]:
    """Return the options that start at the keyframe before a time in seconds, and keep the times; little is read."""
    start = f"{max(0, math.ceil(time * 10**6)) / 10**6:.6f}"
    return ("-blocksize", "8192", "-copyts", "-start_at_zero", "-noaccurate_seek", "-ss", start)


def _decoded_times(path: Path, decoder: Sequence[str], tick: Fraction) -> list[int]:
    """Return the times of all pictures by decoding them, for containers without exact times."""
    output = "-map 0:V:0 -fps_mode passthrough -enc_time_base demux -f null -stats_enc_pre pipe:1"
    with reading(path, decoder, *output.split(), "-stats_enc_pre_fmt", "{pts} {tb}", "-") as process:
        lines = [line.decode().split() for line in process.stdout]
    return sorted(round(int(time) * Fraction(unit) / tick) for time, unit in lines) or [0]


def _describe(path: Path, head: _Packets) -> tuple[str, tuple[int, int], dict[str, Any]]:
    """Return the container, the size of a picture, and Clip's fields, from what the program printed."""

    def find(pattern: str, *default: str) -> Sequence[str]:
        found = re.search(pattern, head.log, re.MULTILINE)
        return found.groups() if found else default

    kind = find(r"^Input #0, (\S+), from ")
    if not kind:
        raise InvalidInput(f"{path.name} ({path.stat().st_size} bytes) is damaged or not a video; {ADVICE}")
    if find(r"(0:V:0'.* matches no streams|Failed to set value '0:V:0')"):
        other = "sound" if find(r"^  Stream #0:\d.*: (Audio): ") else "other data"
        raise InvalidInput(f"{path.name} has no video, only {other}; {ADVICE}")
    info = r"^\[Parsed_showinfo_0 @ \w+\] "
    picture = find(info + r"n: +0 .* fmt:(\S+) .* sar:(\d+)/(\d+) s:(\d+)x(\d+) i:(\w)")
    frame = find(info + r"color_range:\S+ color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)")
    if not picture or not frame:
        if find(r"(no decoder found|not on whitelist)"):
            raise InvalidInput(f"{path.name} has a video codec that is not supported; {ADVICE} with H.264")
        raise InvalidInput(
            f"{path.name} has no picture that can be decoded: it is damaged, or over {MAX_SIDE} pixels a side or "
            f"{MAX_PIXELS / 1e6:.0f} megapixels; give another file"
        )
    layout, field = picture[0], picture[5]
    tiles = find(r"^  Stream group #0:\d.*: Tile Grid: .*, (\d+)x(\d+)")
    width, height = (int(side) for side in tiles or picture[3:5])
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InvalidInput(
            f"{path.name} is {width}x{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS / 1e6:.0f} megapixels "
            "are allowed: scale it down"
        )
    # The stream's line states the container's colours. A VP9 stream has no complete ones itself.
    (line,) = find(r"^Output #0(?s:.*?)^  Stream #0:0.*: Video: .*?, \w+\((.*)\), \d+x\d+", "")
    names = next((part.split("/") for part in line.split(", ") if "/" in part or part in SWSCALE), ["unknown"])
    stated = names if len(names) == 3 else 3 * names
    matrix, primaries, transfer = (b if a in UNKNOWN else a for a, b in zip(frame, stated, strict=False))
    yuv = re.match(r"a?yuv|nv\d|p\d|v?uy|yvy|y2|xv", layout) is not None
    hdr = HDR.get(transfer) if yuv else None
    fault = "Dolby Vision profile 5" if find(r"^ +DOVI configuration record: .*profile: (5),") else None
    if matrix not in SWSCALE + ZSCALE or (matrix == "ictcp" and not hdr):
        fault = f"matrix {matrix}"
    if hdr and tiles:
        fault = f"{hdr} in tiles"
    if fault:
        raise InvalidInput(
            f"{path.name} has colours ({layout}, {fault}) that cannot be converted; give it as H.264 in BT.709"
        )
    if yuv and matrix in UNKNOWN:  # as players do: haasn/libplacebo src/colorspace.c, pl_color_system_guess_ycbcr
        matrix = "bt2020nc" if hdr else "bt709" if width >= 1280 or height > 576 else "smpte170m"
    colours = f"setparams=colorspace={matrix}" if yuv else "null"
    if hdr:
        scale = min(1, 2048 / max(width, height))
        colours += ":color_primaries=bt2020," if primaries in UNKNOWN else ","
        colours += TO_SDR.format(round(width * scale), round(height * scale))
    elif matrix in ZSCALE:
        colours += ",zscale=m=gbr:r=full,format=gbrp,format=rgb24"
    else:
        colours += ",scale=flags=bilinear+accurate_rnd+full_chroma_int,format=rgb24|rgba"
    alpha = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(head.codec) if find(r"(?i)^ +(alpha_mode) +: 1$") else None
    interlaced = yuv and (field in "TB" or "top" in line or "bottom" in line)
    aspect = Fraction(int(picture[1]) or 1, int(picture[2]) or 1)
    return kind[0], (width, height), {
        "path": path, "codec": head.codec, "width": max(1, round(width * aspect)), "height": height,
        "tick": head.tick, "pixel_aspect": aspect, "tiled": bool(tiles), "hdr": hdr,
        "decoder": ("-c:v", alpha) if alpha else (), "colours": colours,
        "deinterlace": "bwdif=mode=send_frame:deint=interlaced," if interlaced else "",
    }  # fmt: skip
