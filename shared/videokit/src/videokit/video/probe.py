"""The properties of a clip and the times of its pictures, from what the ffmpeg program prints."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from videokit.errors import InvalidInput
from videokit.video.colours import SWSCALE, UNKNOWN, colour_filters, is_yuv
from videokit.video.reading import (
    ADVICE,
    MATROSKA,
    MAX_PICTURES,
    MAX_PIXELS,
    MAX_SIDE,
    MOV,
    STILLS,
    check_work,
    reading,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WIDE_GAP = 1  # seconds between frames; shorter gaps are decoded
HEAD = 512  # pictures that are listed first; x264 sets a keyframe every 250
KEY, CORRUPT, HIDDEN, NO_TIME = 1, 2, 4, -(2**63)  # AV_PKT_FLAG_KEY, _CORRUPT and _DISCARD, AV_NOPTS_VALUE


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
    seeks = seeks and head.keyframe_interval > 0 and stated > num_frames * head.keyframe_interval
    tail = _list_packets(path, 2 * HEAD, seek=stated - 1) if seeks else head
    if not (seeks and tail.exact and tail.count < 2 * HEAD and not tail.corrupt):
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
            if flags & HIDDEN:
                continue
            end = max(end, int(time) + int(duration))
            if int(size):  # an empty packet repeats the picture before it
                times.append(int(time))
                keyframes += times[-1:] * (flags & KEY)
        if process.wait() < 0:
            raise TimeoutError  # a limit
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
        if process.wait() < 0:
            raise TimeoutError  # a limit
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
    if kind[0] == MOV and find(r"^    compatible_brands: .*(msf1)"):
        raise InvalidInput(f"{path.name} is an animated AVIF or HEIF, which is not supported; give it as WebP or MP4")
    if find(r"^      title +: (Alpha)$"):
        raise InvalidInput(f"{path.name} is an AVIF or HEIF with transparency, which is not supported; give a PNG")
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
    tiles = find(r"^  Stream group #0:\d.*: Tile Grid: .*, (\d+)x(\d+)")
    width, height = (int(side) for side in tiles or picture[3:5])
    if tiles and find(r"^      Display Matrix: rotation of -?(90)\."):
        width, height = height, width
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
    try:
        if find(r"^ +DOVI configuration record: .*profile: (5),"):
            raise ValueError("Dolby Vision profile 5")
        colours, hdr = colour_filters(picture[0], matrix, primaries, transfer, (width, height))
        if hdr and tiles:
            raise ValueError(f"{hdr} in tiles")
    except ValueError as fault:
        raise InvalidInput(
            f"{path.name} has colours ({picture[0]}, {fault}) that cannot be converted; give it as H.264 in BT.709"
        ) from None
    alpha = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(head.codec) if find(r"(?i)^ +(alpha_mode) +: 1$") else None
    interlaced = is_yuv(picture[0]) and (picture[5] in "TB" or "top" in line or "bottom" in line)
    aspect = Fraction(int(picture[1]) or 1, int(picture[2]) or 1)
    return kind[0], (width, height), {
        "path": path, "codec": head.codec, "width": max(1, round(width * aspect)), "height": height,
        "tick": head.tick, "pixel_aspect": aspect, "tiled": bool(tiles), "hdr": hdr,
        "decoder": ("-c:v", alpha) if alpha else (), "colours": colours,
        "deinterlace": "bwdif=mode=send_frame:deint=interlaced," if interlaced else "",
    }  # fmt: skip
