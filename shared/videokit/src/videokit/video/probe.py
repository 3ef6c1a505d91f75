"""The properties of a clip and the times of its pictures, from what the ffmpeg program prints."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING

from videokit.errors import InvalidInput
from videokit.video.colours import SWSCALE, UNKNOWN, colour_filters
from videokit.video.reading import ADVICE, LARGEST, MATROSKA, MAX_PICTURES, MOV, STILLS, check_work, reading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STREAM = "0:V:0"  # the first video that is not a cover
FIRST_PICTURE = ("-map", STREAM, "-frames:v", "1", "-vf", "showinfo=checksum=0", "-f", "null", "-")
ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders that decode it
# A delay under 2/100 s is 10/100 s in browsers. ffmpeg knows this of 0 only.
GIF_TIMES = "setpts='if(N,PREV_OUTPTS+if(gte(PTS-PREV_INPTS,2),PTS-PREV_INPTS,10),PTS)',"
CONVERT = "give it as H.264 in BT.709"
REFUSED = {  # by what the program prints
    r"0:V:0'.* matches no streams|Failed to set value '0:V:0'": f"has no video, only sound or other data; {ADVICE}",
    r"^    compatible_brands: .*msf1": "is an animated AVIF or HEIF, which is not supported; give it as WebP or MP4",
    r"^      title +: Alpha$": "is an AVIF or HEIF with transparency, which is not supported; give a PNG",
    r"^ +DOVI configuration record: .*profile: 5,": f"is in Dolby Vision profile 5, which is not supported; {CONVERT}",
}
WIDE_GAP = 1  # seconds between frames; shorter gaps are decoded
HEAD = 512  # pictures that are listed first; x264 sets a keyframe every 250
PACKET = re.compile(r"^0, +\S+, +(\S+), +(\S+), +(\d+), 0x\w+(?:, F=0x(\w+))?", re.MULTILINE)  # of framecrc
KEY, CORRUPT, HIDDEN, NO_TIME = 1, 2, 4, -(2**63)  # AV_PKT_FLAG_KEY, _CORRUPT and _DISCARD, AV_NOPTS_VALUE


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip as a player shows it, upright and in square pixels, and how the program reads it right.

    Times are in ticks after the start of the file.
    """

    path: Path
    codec: str
    width: int
    height: int
    size: tuple[int, int]  # of a picture as it is stored
    pixel_aspect: Fraction
    source: str  # STREAM, or a group of tiles
    decoder: Sequence[str]
    filters: str  # before the selection of pictures
    colours: str  # filters after it
    hdr: str | None  # PQ or HLG
    tick: Fraction  # seconds
    first: int = 0  # the time of the first picture
    last: int = 0
    end: int = 1  # of the last picture
    num_frames: int = 1  # of those listed; these are all unless `seeks`
    seeks: bool = False  # whether its frames are so far apart that decoding all is more work

    @property
    def duration(self) -> float:
        """The seconds from the first picture to the end of the last."""
        return float((self.end - self.first) * self.tick)


class _Packets:
    """Up to `limit` packets of a stream, their times in ticks, and what the program printed."""

    def __init__(self, path: Path, limit: int, *output: str, options: Sequence[str] = (), stream: str = STREAM) -> None:
        copy = f"-map {stream} -c copy -copyinkf -copypriorss 1 -frames:v {limit} -f framecrc pipe:1".split()
        with reading(path, options, *copy, *output) as process:
            listed = process.stdout.read().decode()
            if process.wait() < 0:
                raise TimeoutError  # a limit
            self.log = process.log()
        packets = [(*map(int, line[:3]), int(line[3] or "1", 16)) for line in PACKET.findall(listed)]
        shown = [packet for packet in packets if not packet[3] & HIDDEN]
        pictures = [packet for packet in shown if packet[2]]  # an empty packet repeats the picture before it
        keyframes = [time for time, *_, flags in pictures if flags & KEY]
        self.codec = _find(listed, r"^#codec_id 0: (\S+)", "")[0]
        self.tick = Fraction(*_find(listed, r"^#tb 0: (\S+)", "1"))  # seconds
        self.count = len(packets)
        self.corrupt = bool(packets and packets[-1][3] & CORRUPT)  # whether the last one is
        self.times = sorted(time for time, *_ in pictures if time != NO_TIME)
        self.exact = len(set(self.times)) == len(pictures) > 0  # whether each picture has a time of its own
        self.end = max((time + duration for time, duration, *_ in shown), default=0)
        span = (keyframes[-1] - keyframes[0]) * self.tick if keyframes else 0  # not positive in a damaged file
        self.keyframe_interval = span / (len(keyframes) - 1) if span > 0 else math.inf


def probe(path: Path, num_frames: int = 0) -> Clip:
    """Return a clip whose first picture can be decoded, or raise InvalidInput; `num_frames` decide whether it seeks."""
    if not path.is_file():
        raise InvalidInput(f"{path.name} is not a file; {ADVICE}")
    head = packets = _Packets(path, HEAD, *FIRST_PICTURE)
    kind, clip = _describe(path, head)
    if clip.source != STREAM or (kind in STILLS and head.count <= 4):  # the others are previews and gain maps
        if "] EOI missing" in head.log:
            raise InvalidInput(f"{path.name} is truncated; give the complete file")
        return clip
    length = _find(head.log, r"^  Duration: (\d+):(\d+):([\d.]+), start: ([-\d.]+)", "0", "0", "0", "0")
    hours, minutes, seconds, start = map(Fraction, length)
    stated = 3600 * hours + 60 * minutes + seconds - (start if kind == MATROSKA else 0)  # it counts from 0
    indexed = head.count == HEAD and kind in (MOV, MATROSKA)
    seeks = indexed and stated > num_frames * max(WIDE_GAP, head.keyframe_interval)
    tail = _Packets(path, 2 * HEAD, options=seek_options(stated - 1)) if seeks else head
    if not (seeks and tail.exact and tail.count < 2 * HEAD and not tail.corrupt):
        packets = tail = head if head.count < HEAD else _Packets(path, MAX_PICTURES + 1)
        check_work(path, packets.count, clip.size)
    if packets is tail and not tail.exact:
        tail.times = times = _decoded_times(path, clip.decoder, clip.tick)
        tail.end = times[-1] + max(1, round((times[-1] - times[0]) / max(1, len(times) - 1)))
        if kind == MOV and abs((tail.end - times[0]) * clip.tick - stated) > 0.25:
            raise InvalidInput(f"{path.name} has an edit list that ffmpeg cannot follow; export it again, encoded")
    if kind == "gif":
        gaps = [end - time for time, end in zip(packets.times, [*packets.times[1:], packets.end], strict=True)]
        *packets.times, packets.end = accumulate([10 if gap < 2 else gap for gap in gaps], initial=packets.times[0])
    first, last, end = packets.times[0], tail.times[-1], tail.end
    sound = _Packets(path, 0, stream="0:a:0") if kind == MOV and stated > end * clip.tick + 0.5 else None
    missing = sound is not None and stated > sound.end * sound.tick + 0.5
    if tail.corrupt or missing or (stated and "File ended prematurely" in tail.log):
        raise InvalidInput(
            f"{path.name} is truncated {float((end - first) * clip.tick):.1f} s after its start; give the complete "
            "file, or repair it (ffmpeg -i TRUNCATED -c copy REPAIRED)"
        )
    ticks = round(stated / clip.tick)
    if (kind == MATROSKA and ticks > 2 * end - last) or (kind == MOV and last < ticks < end):
        end = ticks  # the last picture stands still, or an edit list cuts it
    return replace(clip, first=first, last=last, end=end, num_frames=len(packets.times), seeks=seeks)


def seek_options(time: Fraction) -> Sequence[str]:
    """Return the options that start at the keyframe before a time in seconds, and keep the times; little is read."""
    start = f"{max(0, math.ceil(time * 10**6)) / 10**6:.6f}"
    return ("-blocksize", "8192", "-copyts", "-start_at_zero", "-noaccurate_seek", "-ss", start)


def _decoded_times(path: Path, decoder: Sequence[str], tick: Fraction) -> list[int]:
    """Return the times of all pictures by decoding them, for containers without exact times."""
    output = f"-map {STREAM} -fps_mode passthrough -enc_time_base demux -f null -stats_enc_pre pipe:1".split()
    with reading(path, decoder, *output, "-stats_enc_pre_fmt", "{pts} {tb}", "-") as process:
        lines = [line.decode().split() for line in process.stdout]
        if process.wait() < 0:
            raise TimeoutError  # a limit
    return sorted(round(int(time) * Fraction(unit) / tick) for time, unit in lines) or [0]


def _find(log: str, pattern: str, *default: str) -> Sequence[str]:
    found = re.search(pattern, log, re.MULTILINE)
    return found.groups() if found else default


def _describe(path: Path, head: _Packets) -> tuple[str, Clip]:
    """Return the container, and the clip as one picture, from what the program printed."""
    (kind,) = _find(head.log, r"^Input #0, (\S+), from ", "")
    if not kind:
        raise InvalidInput(f"{path.name} ({path.stat().st_size} bytes) is damaged or not a video; {ADVICE}")
    for pattern, fault in REFUSED.items():
        if re.search(pattern, head.log, re.MULTILINE):
            raise InvalidInput(f"{path.name} {fault}")
    picture = _find(
        head.log,
        r"^\[Parsed_showinfo_0 @ \w+\] n: +0 .* fmt:(\w+) .* sar:(\d+)/(\d+) s:(\d+)x(\d+) i:(\w)(?s:.*?)"
        r"^\[Parsed_showinfo_0 @ \w+\] color_range:\S+ color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)",
    )
    if not picture and re.search("no decoder found|not on whitelist", head.log):
        raise InvalidInput(f"{path.name} has a video codec that is not supported; {ADVICE} with H.264")
    if not picture:
        raise InvalidInput(
            f"{path.name} has no picture that can be decoded: it is damaged, or over {LARGEST}; give another file"
        )
    pixel_format, *picture, interlacing, matrix, primaries, transfer = picture
    group, *tiles = _find(head.log, r"^  Stream group #0:(\d+).*: Tile Grid: .*, (\d+)x(\d+)", "")
    width, height = (int(side) for side in tiles or picture[2:4])
    if tiles and re.search(r"^      Display Matrix: rotation of -?90\.", head.log, re.MULTILINE):
        width, height = height, width
    check_work(path, 1, (width, height))
    (line,) = _find(head.log, r"^Output #0(?s:.*?)^  Stream #0:0.*: Video: .*?, \w+\((.*)\), \d+x\d+", "")
    if matrix in UNKNOWN:  # A VP9 stream does not state it. The stream's line has the container's.
        stated = (part.partition("/")[0] for part in line.split(", ") if "/" in part or part in SWSCALE)
        matrix = next(stated, matrix)
    try:
        colours, hdr = colour_filters(matrix, primaries, transfer, (width, height))
    except ValueError as fault:
        raise InvalidInput(f"{path.name} has colours ({fault}) that cannot be converted; {CONVERT}") from None
    if pixel_format == "pal8":
        colours = f"format=rgba,{colours}"  # ffmpeg's choice would be rgb24, without the palette's transparency
    has_alpha = head.codec in ALPHA and re.search(r"(?i)^ +alpha_mode +: 1$", head.log, re.MULTILINE)
    interlaced = interlacing in "TB" or "top" in line or "bottom" in line
    aspect = Fraction(int(picture[0]) or 1, int(picture[1]) or 1)
    return kind, Clip(
        path=path, codec=head.codec, width=max(1, round(width * aspect)), height=height, size=(width, height),
        pixel_aspect=aspect, source=f"0:g:{group}" if tiles else STREAM, tick=head.tick,
        decoder=("-c:v", ALPHA[head.codec]) if has_alpha else (), colours=colours, hdr=hdr,
        filters="bwdif=mode=send_frame:deint=interlaced," if interlaced else GIF_TIMES if kind == "gif" else "",
    )  # fmt: skip
