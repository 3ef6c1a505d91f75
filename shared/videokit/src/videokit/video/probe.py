"""The properties of a clip and the times of its pictures, from the ffmpeg program.

Times are exact integers, in ticks. Their origin is the start of the file, as in every process that reads it.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from videokit.errors import InvalidInput
from videokit.video.ffmpeg import PIPE, Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_SIDE = 8192  # pixels
MAX_PIXELS = 4096 * 4096  # every 4K format
MAX_DECODED = 20_000_000_000  # pixels of a clip, about 20 s of work; 5 minutes of 1920x1080 at 30 fps
MAX_PICTURES = 250_000  # of a clip whose pictures must be counted; over 2 hours at 30 fps
HEAD = 300  # pictures that are always listed; x264 sets a keyframe every 250
LIMITS = {"memory": 1_600_000_000, "cpu_seconds": 60, "seconds": 90}  # of a process

# The allowed demuxers; the program picks one by content. Playlists (HLS, DASH), concat lists, SDP, SVG, numbered
# pictures and all other demuxers that open a second file or an address are excluded.
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # have an index with the times of their keyframes
NOT_INDEXED = ("avi", "flv", "asf", "ogg", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "ivf", "mjpeg")
STILLS = ("png_pipe", "jpeg_pipe", "webp_pipe")  # a second picture in such a file is a preview or a gain map
FORMATS = (*INDEXED, *NOT_INDEXED, *STILLS, "gif", "apng", "webp_anim")
DECODERS = (
    "h264,hevc,vvc,av1,libdav1d,vp8,vp9,libvpx,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,"
    "h261,h263,flv,vp6,vp6f,vp6a,wmv1,wmv2,wmv3,vc1,theora,svq1,svq3,cinepak,rpza,qtrle,dvvideo,prores,dnxhd,cfhd,"
    "ffv1,huffyuv,ffvhuff,utvideo,magicyuv,rawvideo,v210,r210,mjpeg,jpeg2000,png,apng,gif,webp,webp_anim"
)
GUARDS = ("-protocol_whitelist", "fd", "-format_whitelist", ",".join(FORMATS), "-codec_whitelist", DECODERS,
          "-max_pixels", str(MAX_PIXELS), "-threads", "2")  # fmt: skip
KEY, CORRUPT, HIDDEN, NO_TIME = 1, 2, 4, -(2**63)  # AV_PKT_FLAG_KEY, _CORRUPT and _DISCARD, AV_NOPTS_VALUE
ADVICE = "give an MP4, WebM, MOV, MKV, AVI or GIF file"

UNKNOWN = ("unknown", "reserved")
SWSCALE = ("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc", "gbr", "unknown")  # of the filter scale
ZSCALE = ("ictcp", "ycgco", "chroma-derived-nc")
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
HDR_SIDE = 2048  # pixels; tone mapping takes 12 bytes a pixel
TO_SDR = (
    "format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.8:desat=0,zscale=t=bt709:m=gbr:r=full,format=gbrp,"
    "format=rgb24"
)


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Clip:
    """A clip's properties and the options of the program that read it right."""

    path: Path
    codec: str
    size: tuple[int, int]  # upright, in pixels that may not be square
    pixel_aspect: float
    tick: Fraction  # seconds
    times: Sequence[int]  # of all pictures, ascending; of the first if not `complete`
    end: int  # of the last picture
    complete: bool
    indexed: bool
    keyframe_interval: Fraction  # seconds
    tiled: bool
    hdr: str | None  # PQ or HLG
    decoder: tuple[str, ...]
    deinterlace: str  # filters before the selection of pictures
    colours: str  # filters after it

    @property
    def duration(self) -> Fraction:
        """Seconds from the first picture to the end of the last."""
        return (self.end - self.times[0]) * self.tick

    @property
    def info(self) -> VideoInfo:
        """The public facts."""
        width, height = max(1, round(self.size[0] * self.pixel_aspect)), self.size[1]
        num_frames = len(self.times) if self.complete else None
        return VideoInfo(self.path, width, height, num_frames, float(self.duration), self.codec)


@dataclass
class _Packets:
    """The packets of a clip's video stream as far as they were read, and what the program printed."""

    log: str
    tick: Fraction
    codec: str
    times: list[int]  # of the packets that are shown, ascending
    exact: bool  # whether each packet has a time of its own
    keyframes: int
    end: int
    count: int  # of all packets
    corrupt: bool  # the last one


def probe(path: Path) -> VideoInfo:
    """Return the facts of a clip and decode its first picture only; raise InvalidInput if it cannot be used."""
    return read_clip(path).info


@contextmanager
def reading(path: Path, options: Sequence[str], output: Sequence[str], loglevel: str = "error") -> Iterator[Process]:
    """Run the program on an open file, because it may choose nothing by a name; raise InvalidInput at its limits."""
    with path.open("rb", buffering=0) as file:
        arguments = [*GUARDS, *options, "-i", "fd:", *output]
        try:
            with Process(arguments, stdin=file.fileno(), stdout=PIPE, loglevel=loglevel, **LIMITS) as process:
                yield process
        except TimeoutError as error:
            raise InvalidInput(f"{path.name} takes too long to decode; give a shorter or smaller clip") from error


def read_clip(path: Path, *, complete: bool = False) -> Clip:
    """Return a clip whose first picture can be decoded; `complete` lists all pictures of a long one too."""
    if not path.is_file():
        raise InvalidInput(f"{path.name} is not a file; {ADVICE}")
    head = _list_packets(
        path, HEAD, ("-map", "0:V:0", "-frames:v", "1", "-vf", "showinfo=checksum=0", "-f", "null", "-")
    )
    clip, kind = _first_picture(path, head)
    if kind in STILLS or clip.tiled:
        return clip
    length = re.search(r"^  Duration: (\d+):(\d+):([\d.]+), start: ([-\d.]+)", head.log, re.MULTILINE)
    stated = Fraction(0) if length is None else 3600 * int(length[1]) + 60 * int(length[2]) + Fraction(length[3])
    if length and kind == INDEXED[1]:  # counted from 0
        stated = max(Fraction(0), stated - Fraction(length[4]))
    packets = head
    if head.count == HEAD:
        tail = None
        if kind in INDEXED and stated and not complete and head.keyframes > 1:
            seek = ("-copyts", "-start_at_zero", "-noaccurate_seek", "-ss", f"{max(0, float(stated) - 1):.6f}")
            tail = _list_packets(path, HEAD, (), seek)
        if tail and tail.exact and tail.count < HEAD and tail.end > head.end and not tail.corrupt:
            return replace(clip, times=head.times, end=tail.end, complete=False, keyframe_interval=_interval(head))
        packets = _list_packets(path, MAX_PICTURES + 1)
        if packets.count > MAX_PICTURES:
            raise InvalidInput(f"{path.name} has more than {MAX_PICTURES} pictures; give a shorter clip")
    check_work(path, packets.count, clip.size)
    times, end = packets.times, packets.end
    if not packets.exact:
        times = _decoded_times(path, clip)
        end = times[-1] + max(1, round(Fraction(times[-1] - times[0], max(1, len(times) - 1))))
    late = kind == INDEXED[0] and stated > end * clip.tick + 1 and stated > _sound_end(path) + 1
    if packets.corrupt or late or (stated and "File ended prematurely" in packets.log):
        raise InvalidInput(
            f"{path.name} is truncated {float((end - times[0]) * clip.tick):.1f} s after its start; give the complete "
            "file, or repair it (ffmpeg -i TRUNCATED -c copy REPAIRED)"
        )
    if kind == INDEXED[1] and stated / clip.tick > 2 * end - times[-1]:  # the last picture stands still
        end = round(stated / clip.tick)
    return replace(clip, times=times, end=end, keyframe_interval=_interval(packets))


def check_work(path: Path, num_pictures: int, size: tuple[int, int]) -> None:
    """Raise InvalidInput if so many pictures of this size take too long to decode."""
    if num_pictures * size[0] * size[1] > MAX_DECODED:
        raise InvalidInput(
            f"{path.name} takes too long to decode ({num_pictures} pictures of {size[0]}x{size[1]}); at most "
            f"{MAX_DECODED // 10**9} gigapixels are allowed: give a shorter or smaller clip, or an MP4 with a keyframe "
            "every few seconds"
        )


def check_size(path: Path, width: int, height: int) -> None:
    """Raise InvalidInput for a picture that is too large."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InvalidInput(
            f"{path.name} is {width}x{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS / 1e6:.0f} megapixels "
            "are allowed: scale it down"
        )


def _list_packets(path: Path, limit: int, output: Sequence[str] = (), seek: Sequence[str] = ()) -> _Packets:
    """Return up to `limit` packets of the first video stream that is not a cover."""
    copy = f"-map 0:V:0 -c copy -copyinkf -copypriorss 1 -frames:v {limit} -f framecrc pipe:1".split()
    times: list[int] = []
    end, keyframes, count, flags, header = 0, 0, 0, 0, {}
    with reading(path, seek, [*copy, *output], "info") as process:
        for line in process.stdout:
            if line.startswith(b"#"):
                name, _, value = line.decode(errors="replace").partition(": ")
                header[name] = value.strip()
                continue
            _, _, pts, duration, size, _, *rest = line.split(b",")
            flags = int(rest[0].split(b"x")[1], 16) if rest and b"F=" in rest[0] else KEY
            count += 1
            if not flags & HIDDEN and int(size):
                times.append(int(pts))
                keyframes += flags & KEY
                end = max(end, int(pts) + int(duration))
        process.wait()
        log = process.log()
    tick = Fraction(header.get("#tb 0", "1"))
    exact = len(set(times)) == len(times) > 0 and NO_TIME not in times
    times = sorted(time for time in times if time != NO_TIME)
    return _Packets(
        log, tick, header.get("#codec_id 0", ""), times, exact, keyframes, end, count, bool(flags & CORRUPT)
    )


def _decoded_times(path: Path, clip: Clip) -> list[int]:
    """Return the times of all pictures by decoding them, for containers without exact times."""
    stats = ("-enc_time_base", "demux", "-f", "null", "-stats_enc_pre", "pipe:1", "-stats_enc_pre_fmt", "{pts} {tb}")
    output = ["-map", "0:V:0", "-fps_mode", "passthrough", *stats, "-"]
    with reading(path, clip.decoder, output) as process:
        lines = [line.split() for line in process.stdout]
    times = [round(int(pts) * Fraction(tick.decode()) / clip.tick) for pts, tick in lines]
    return sorted(times) or [0]


def _sound_end(path: Path) -> Fraction:
    """Return the end of the sound in seconds."""
    with reading(path, (), ["-map", "0:a:0?", "-c", "copy", "-f", "framecrc", "pipe:1"]) as process:
        end, tick = 0, Fraction(1)
        for line in process.stdout:
            if line.startswith(b"#tb 0: "):
                tick = Fraction(line[7:].decode())
            elif not line.startswith(b"#"):
                end = max(end, int(line.split(b",")[2]) + int(line.split(b",")[3]))
    return end * tick


def _first_picture(path: Path, head: _Packets) -> tuple[Clip, str]:
    """Return a clip of the pictures in `head`, by what the program printed of it, and its container."""

    def find(pattern: str) -> Sequence[str]:
        found = re.search(pattern, head.log, re.MULTILINE)
        return found.groups() if found else ()

    if not (container := find(r"^Input #0, (\S+), from ")):
        raise InvalidInput(f"{path.name} ({path.stat().st_size} bytes) is damaged or not a video; {ADVICE}")
    if "map" in (find(r"(map)(?:' matches no|': Invalid)") or ""):
        other = "sound" if find(r"^  Stream #0:\d.*: (Audio): ") else "other data"
        raise InvalidInput(f"{path.name} has no video, only {other}; {ADVICE}")
    if find(r"(no decoder found|Decoder .* not found|not on whitelist)"):
        raise InvalidInput(f"{path.name} has a video codec that is not supported; {ADVICE} with H.264")
    showinfo = r"^\[Parsed_showinfo_0 @ \w+\] "
    picture = find(showinfo + r"n: +0 .* fmt:(\S+) .* sar:(\d+)/(\d+) s:(\d+)x(\d+) i:(\w)")
    if not picture:
        raise InvalidInput(
            f"{path.name} has no picture that can be decoded: it is damaged, or over {MAX_SIDE} pixels a side or "
            f"{MAX_PIXELS / 1e6:.0f} megapixels; give another file"
        )
    layout, field = picture[0], picture[5]
    aspect = Fraction(int(picture[1]) or 1, int(picture[2]) or 1)
    tiles = find(r"^  Stream group #0:\d.*: Tile Grid: .*, (\d+)x(\d+)")
    width, height = tiles or picture[3:5]
    size = (int(width), int(height))
    check_size(path, *size)
    # The stream's line states the container's colours. A VP9 stream has no complete ones itself.
    (line,) = find(r"^Output #0(?s:.*?)^  Stream #0:0.*: Video: .*?, \w+\((.*)\), \d+x\d+") or ("",)
    names = next((part.split("/") for part in line.split(", ") if "/" in part or part in SWSCALE), ["unknown"])
    frame = find(showinfo + r"color_range:\S+ color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)")
    stated = names * 3 if len(names) == 1 else names
    matrix, primaries, transfer = (b if a in UNKNOWN else a for a, b in zip(frame, stated, strict=True))
    dolby = find(r"^ +DOVI configuration record: .*profile: (5),")
    if matrix not in (*SWSCALE, *ZSCALE, *UNKNOWN) or (matrix == "ictcp" and transfer not in HDR) or dolby:
        raise InvalidInput(
            f"{path.name} has colours ({layout}, matrix {matrix}{', Dolby Vision profile 5' if dolby else ''}) that "
            "cannot be converted; give it as H.264 in BT.709"
        )
    yuv = re.match(r"a?yuv|nv\d|p\d|v?uy|yvy|y2|xv", layout) is not None
    hdr = HDR.get(transfer) if yuv else None
    if tiles and hdr:
        raise InvalidInput(f"{path.name} is an HDR picture in tiles, which is not supported; give it as JPEG or PNG")
    if yuv and matrix in UNKNOWN:  # as players do: haasn/libplacebo src/colorspace.c, pl_color_system_guess_ycbcr
        matrix = "bt2020nc" if hdr else "bt709" if size[0] >= 1280 or size[1] > 576 else "smpte170m"
    colours = f"setparams=colorspace={matrix}," if yuv else ""
    if hdr:
        scale = min(1, HDR_SIDE / max(size))
        colours += "color_primaries=bt2020," if primaries in UNKNOWN else ""
        colours += f"zscale=w={round(size[0] * scale)}:h={round(size[1] * scale)}:t=linear:npl=203,{TO_SDR}"
    elif matrix in ZSCALE:
        colours += "zscale=m=gbr:r=full,format=gbrp,format=rgb24"
    else:
        colours += "scale=flags=bilinear+accurate_rnd+full_chroma_int,format=rgb24|rgba"
    interlaced = yuv and (field in "TB" or re.search(r"(top|bottom)", line))
    alpha = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(head.codec) if find(r"(?i)^ +alpha_mode +: (1)$") else None
    first = head.times[:1] or [0]
    clip = Clip(
        path, head.codec, size, float(aspect), head.tick, first, first[0] + 1, True, container[0] in INDEXED,
        Fraction(0), bool(tiles), hdr, ("-c:v", alpha) if alpha else (),
        "bwdif=mode=send_frame:deint=interlaced," if interlaced else "", colours,
    )  # fmt: skip
    return clip, container[0]


def _interval(packets: _Packets) -> Fraction:
    """Return the seconds between keyframes."""
    first, last = (packets.times[0], packets.times[-1]) if packets.times else (0, 0)
    return (last - first) * packets.tick / max(1, packets.keyframes)
