"""Decoding of the kinds of files that cameras, phones and recorders write. Each test makes a file of the same kind."""

from __future__ import annotations

import logging
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hostile_videos import draw_number, read_number, write_clip
from PIL import Image, ImageOps
from videokit.errors import InvalidInput
from videokit.video.decode import decode, probe
from videokit.video.ffmpeg import program

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 200))
LONG = [draw_number(index) for index in range(80)]  # 8 s at 10 pictures a second


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([program().path, "-v", "error", "-y", *arguments], check=True)


def numbers(path: Path, num_frames: int) -> list[int]:
    return [read_number(frame) for frame in decode(path, num_frames=num_frames, width=64, height=48)]


def colours(path: Path, num_frames: int) -> list[tuple[int, ...]]:
    frames = decode(path, num_frames=num_frames, width=64, height=64)
    return [tuple(int(level) for level in frame[24:40, 24:40].mean(axis=(0, 1)).round()) for frame in frames]


# Edit lists


def edit(data: bytes, edits: list[tuple[float, float]], scales: dict[bytes, int]) -> bytes:
    """Return MP4 boxes with another edit list: (start in seconds, -1 for an empty edit; duration in seconds)."""
    result = b""
    while data:
        size, kind = struct.unpack(">I4s", data[:8])
        body, data = data[8:size], data[size:]
        if kind in (b"mvhd", b"mdhd"):
            scales[kind] = struct.unpack(">I", body[12:16])[0]
        if kind == b"mdia":
            edit(body, edits, scales)
        if kind == b"elst":
            first = struct.unpack(">i", body[12:16])[0]  # the delay of B pictures
            entries = (
                struct.pack(
                    ">Iii",
                    round(duration * scales[b"mvhd"]),
                    -1 if start < 0 else first + round(start * scales[b"mdhd"]),
                    1 << 16,
                )
                for start, duration in edits
            )
            body = body[:4] + struct.pack(">I", len(edits)) + b"".join(entries)
        if kind in (b"moov", b"trak", b"edts"):
            if kind == b"trak":
                edit(body[body.index(b"mdia") - 4 :], edits, scales)  # its time scale is stated after the edit list
            body = edit(body, edits, scales)
        result += struct.pack(">I4s", 8 + len(body), kind) + body
    return result


def write_edited(folder: Path, kind: str, edits: list[tuple[float, float]]) -> Path:
    clip = write_clip(folder / f"whole.{kind}", LONG, **CODECS[kind])
    (folder / f"edited.{kind}").write_bytes(edit(clip.read_bytes(), edits, {}))
    return folder / f"edited.{kind}"


CODECS = {
    "mov": {"options": {"bf": "3", "g": "25"}},
    "mp4": {"options": {"bf": "0", "g": "7"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=30"}},
    "mpeg4.mov": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
}


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize(
    ("edits", "expected"),
    [([(0, 1.5)], range(15)), ([(2.3, 1.7)], range(23, 40)), ([(-1, 0.4), (1, 1)], range(10, 20))],
    ids=["head", "middle", "after-a-delay"],
)
def test_a_clip_that_was_trimmed_by_an_edit_list_has_the_pictures_left(
    tmp_path: Path, kind: str, edits: list[tuple[float, float]], expected: range
) -> None:
    clip = write_edited(tmp_path, kind, edits)
    assert numbers(clip, len(expected)) == list(expected)
    assert probe(clip).duration == pytest.approx(len(expected) / 10, abs=0.02)


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([(0, 1), (3, 1)], [2, 7, 32, 37]),
        ([(3, 1), (0.5, 1)], [32, 37, 7, 12]),
        ([(0, 1), (0, 1)], [2, 7, 2, 7]),
    ],
    ids=["two-cuts", "two-cuts-backwards", "twice"],
)
def test_a_clip_with_an_edit_list_of_two_pieces_shows_both_or_is_refused(
    tmp_path: Path, kind: str, edits: list[tuple[float, float]], expected: list[int]
) -> None:
    clip = write_edited(tmp_path, kind, edits)
    if kind == "hevc.mp4" and edits[1][0] == 3:
        with pytest.raises(InvalidInput, match="an edit list that ffmpeg cannot follow; export it again"):
            probe(clip)
    else:  # ffmpeg is wrong by a picture if there are B pictures
        assert numbers(clip, 4) == pytest.approx(expected, abs=1)
        assert probe(clip).duration == pytest.approx(2, abs=0.25)


# Photographs


def jpeg(colour: tuple[int, ...], size: tuple[int, int], path: Path) -> bytes:
    Image.new("RGB", size, colour).save(path, quality=95)
    return path.read_bytes()


def test_a_photograph_with_a_gain_map_behind_it_is_one_picture(tmp_path: Path) -> None:
    photograph = jpeg((200, 100, 50), (256, 192), tmp_path / "photograph.jpg")
    gain_map = jpeg((128, 128, 128), (64, 48), tmp_path / "gain_map.jpg")
    (tmp_path / "ultrahdr.jpg").write_bytes(photograph + gain_map)
    Image.new("RGB", (256, 192), (200, 100, 50)).save(
        tmp_path / "mpo.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48), (128, 128, 128))]
    )
    for name in ("ultrahdr.jpg", "mpo.jpg"):
        assert probe(tmp_path / name).num_frames == 1
        for colour in colours(tmp_path / name, 8):
            assert colour == pytest.approx((200, 100, 50), abs=3)


def box(kind: bytes, *parts: bytes, version: int | None = None) -> bytes:
    body = (b"" if version is None else struct.pack(">I", version << 24)) + b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


TILES = {  # of AVIF and HEIC: the encoder's options, its container, item type, configuration and brands
    "avif": (["libaom-av1", "-crf", "5", "-still-picture", "1"], "avif", b"av01", b"av1C", b"avif\0\0\0\0avifmif1miaf"),
    "heic": (["libx265", "-x265-params", "log-level=none"], "mp4", b"hvc1", b"hvcC", b"heic\0\0\0\0heicmif1"),
}


def write_tiles(path: Path, transform: bytes) -> None:
    """Write four tiles of 64x48, each of one of COLOURS, and a box that transforms them (ISO/IEC 23008-12, 6.6.2.3)."""
    codec, container, item, configuration, brands = TILES[path.suffix[1:]]
    tiles = []
    for index, colour in enumerate(COLOURS):
        tile = path.with_suffix(f".{index}.{container}")
        source = f"color=c=0x{bytes(colour).hex()}:s=64x48:d=0.04,format=yuv444p"
        ffmpeg("-f", "lavfi", "-i", source, "-colorspace", "smpte170m", "-frames:v", "1", "-c:v", *codec, tile)
        data = tile.read_bytes()
        start = data.index(b"mdat") - 4
        tiles.append(data[start + 8 : start + struct.unpack(">I", data[start : start + 4])[0]])
    start = data.index(configuration) - 4
    configuration = data[start : start + struct.unpack(">I", data[start : start + 4])[0]]
    grid = struct.pack(">BBBBHH", 0, 0, 1, 1, 128, 96)
    items = [grid, *tiles]  # items 1 to 5
    info = [box(b"infe", struct.pack(">HH4sx", n, 0, item if n > 1 else b"grid"), version=2) for n in range(1, 6)]
    sizes = [box(b"ispe", struct.pack(">II", *size), version=0) for size in ((128, 96), (64, 48))]
    properties = [*sizes, configuration, transform]
    used = [struct.pack(">HBBB", 1, 2, 1, 0x84)] + [struct.pack(">HBBB", n, 2, 2, 0x83) for n in range(2, 6)]

    def meta(offset: int) -> bytes:
        places = b""
        for number, item in enumerate(items, start=1):
            places += struct.pack(">HHHII", number, 0, 1, offset, len(item))
            offset += len(item)
        return box(
            b"meta",
            box(b"hdlr", struct.pack(">I4s12xx", 0, b"pict"), version=0),
            box(b"pitm", struct.pack(">H", 1), version=0),
            box(b"iloc", struct.pack(">BBH", 0x44, 0, len(items)), places, version=0),
            box(b"iinf", struct.pack(">H", len(info)), *info, version=0),
            box(b"iref", box(b"dimg", struct.pack(">HHHHHH", 1, 4, 2, 3, 4, 5)), version=0),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", struct.pack(">I", len(used)), *used, version=0)),
            version=0,
        )

    kind = box(b"ftyp", brands)
    data = b"".join(items)
    path.write_bytes(kind + meta(len(kind) + len(meta(0)) + 8) + box(b"mdat", data))


@pytest.mark.parametrize("suffix", TILES)
@pytest.mark.parametrize(
    ("transform", "corners", "size"),
    [  # ISO/IEC 23008-12, 6.5.10 and 6.5.12: turns of 90 degrees anti-clockwise; 1 exchanges left and right
        (box(b"irot", b"\0"), (0, 1, 2, 3), (128, 96)),
        (box(b"irot", b"\1"), (1, 3, 0, 2), (96, 128)),
        (box(b"irot", b"\2"), (3, 2, 1, 0), (128, 96)),
        (box(b"irot", b"\3"), (2, 0, 3, 1), (96, 128)),
        (box(b"imir", b"\0"), (2, 3, 0, 1), (128, 96)),
        (box(b"imir", b"\1"), (1, 0, 3, 2), (128, 96)),
    ],
    ids=["upright", "90", "180", "270", "top-bottom", "left-right"],
)
def test_a_picture_in_tiles_is_composed_turned_and_mirrored(
    tmp_path: Path, suffix: str, transform: bytes, corners: tuple[int, ...], size: tuple[int, int]
) -> None:
    picture = tmp_path / f"grid.{suffix}"
    write_tiles(picture, transform)
    info = probe(picture)
    assert (info.width, info.height, info.num_frames) == (*size, 1)
    width, height = size
    for frame in decode(picture, num_frames=3, width=width, height=height):
        centres = [frame[y, x] for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
        assert np.abs(np.array(centres).astype(int) - [COLOURS[index] for index in corners]).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_an_avif_is_applied(tmp_path: Path, orientation: int) -> None:
    corners = np.zeros((48, 64, 3), np.uint8)
    corners[:24, :32], corners[:24, 32:], corners[24:, :32] = COLOURS[:3]
    exif = Image.Exif()
    exif[0x0112] = orientation  # Pillow writes it as irot and imir
    Image.fromarray(corners).save(tmp_path / "clip.avif", exif=exif, quality=100, subsampling="4:4:4")
    exif_only = Image.fromarray(corners)
    exif_only.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(exif_only))
    height, width = expected.shape[:2]
    (frame,) = decode(tmp_path / "clip.avif", num_frames=1, width=width, height=height)
    assert np.abs(frame.astype(int) - expected).max() <= 4


def test_an_animated_avif_and_one_with_transparency_are_refused_with_what_they_are(tmp_path: Path) -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in COLOURS]
    images[0].save(tmp_path / "pillow.avif", save_all=True, append_images=images[1:], duration=100)
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:d=1:r=10", "-c:v", "libaom-av1", "-cpu-used", "8", tmp_path / "a.avif"
    )
    for name in ("pillow.avif", "a.avif"):
        with pytest.raises(InvalidInput, match="is an animated AVIF or HEIF, which is not supported; give it as WebP"):
            probe(tmp_path / name)
    Image.new("RGBA", (64, 64), (200, 100, 50, 51)).save(tmp_path / "alpha.avif")
    with pytest.raises(InvalidInput, match="with transparency, which is not supported; give a PNG"):
        probe(tmp_path / "alpha.avif")


def test_an_animated_webp_is_decoded_by_its_durations(tmp_path: Path) -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in COLOURS]
    images[0].save(
        tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=[100, 300, 100, 500], lossless=True
    )
    assert probe(tmp_path / "a.webp").duration == pytest.approx(1.0)
    assert colours(tmp_path / "a.webp", 10) == [COLOURS[index] for index in (0, 1, 1, 1, 2, 3, 3, 3, 3, 3)]


def test_a_picture_whose_text_inflates_to_a_gigabyte_takes_little_time_and_memory(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    inflate = zlib.compressobj(9)
    text = b"".join([*(inflate.compress(bytes(1 << 20)) for _ in range(1000)), inflate.flush()])
    Image.new("RGB", (64, 48), (200, 100, 50)).save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    (tmp_path / "bomb.png").write_bytes(good[:33] + chunk(b"zTXt", b"Comment\0\0" + text) + good[33:])
    code = (
        "import re, resource, sys; from pathlib import Path; from videokit.video.decode import decode\n"
        "print(len(list(decode(Path(sys.argv[1]), num_frames=1, width=64, height=48))))\n"
        "own = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "child = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(int(own) + child.ru_maxrss, round(child.ru_utime + child.ru_stime))"
    )
    count, memory, seconds = map(
        int, subprocess.check_output([sys.executable, "-c", code, tmp_path / "bomb.png"]).split()
    )
    assert count == 1
    assert memory < 200_000  # kB, of parent and child
    assert seconds <= 3  # of processor time


# Recordings


@pytest.mark.parametrize("offset", ["0", "3600"], ids=["the clock restarts", "an hour later"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_two_transport_streams_joined_are_both_shown(tmp_path: Path, codec: str, offset: str) -> None:
    both = b""
    for index, shift in ((0, "0"), (1, offset)):
        pictures = LONG[25 * index : 25 * index + 25]
        clip = write_clip(tmp_path / f"{index}.mkv", pictures, codec=codec, fps=25, options={"bf": "2", "g": "10"})
        ffmpeg("-i", clip, "-c", "copy", "-output_ts_offset", shift, tmp_path / f"{index}.ts")
        both += (tmp_path / f"{index}.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(both)
    assert probe(tmp_path / "joined.ts").duration == pytest.approx(2.0, abs=0.05)
    assert numbers(tmp_path / "joined.ts", 10) == pytest.approx([2, 7, 12, 17, 22, 27, 32, 37, 42, 47], abs=1)


def test_a_webm_that_stands_still_lasts_as_long_as_it_says(tmp_path: Path) -> None:
    write_clip(tmp_path / "2s.mkv", LONG[:20], codec="libvpx", options={"g": "10"})
    sound = ["-f", "lavfi", "-i", "sine=duration=10"]
    ffmpeg("-i", tmp_path / "2s.mkv", *sound, "-c:v", "copy", tmp_path / "still.webm")
    assert probe(tmp_path / "still.webm").duration == pytest.approx(10, abs=0.05)
    assert numbers(tmp_path / "still.webm", 10) == [5, 15, *[19] * 8]


def test_an_ogg_that_stands_still_at_its_end_lasts_until_its_last_packet(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", [*LONG[:10], *[LONG[9]] * 10], codec="ffv1")
    ffmpeg("-i", tmp_path / "clip.mkv", "-c:v", "libtheora", "-q:v", "9", tmp_path / "clip.ogv")  # repeats are empty
    assert probe(tmp_path / "clip.ogv").duration == pytest.approx(2, abs=0.01)
    assert numbers(tmp_path / "clip.ogv", 4) == [2, 7, 9, 9]


def test_the_container_s_cropping_is_applied(tmp_path: Path) -> None:
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[:, 32:96] = draw_number(0b1010011100101101, 64, 128)
    write_clip(tmp_path / "whole.mkv", [picture] * 5, codec="ffv1")
    # Matroska has DisplayWidth and DisplayHeight if pixels are not square.
    ffmpeg("-i", tmp_path / "whole.mkv", "-vf", "setsar=2", "-c:v", "huffyuv", tmp_path / "wide.mkv")
    data = (tmp_path / "wide.mkv").read_bytes()
    # PixelCropLeft and PixelCropRight in place of DisplayWidth and DisplayHeight (RFC 9559, 5.1.4.1.28)
    for old, new in ((b"\x54\xb0\x81\x02", b"\x54\xcc\x81\x20"), (b"\x54\xba\x81\x01", b"\x54\xdd\x81\x20")):
        assert data.count(old) == 1
        data = data.replace(old, new)
    (tmp_path / "crop.mkv").write_bytes(data)
    info = probe(tmp_path / "crop.mkv")
    assert (info.width, info.height) == (64, 128)
    (frame,) = decode(tmp_path / "crop.mkv", num_frames=1, width=64, height=128)
    assert read_number(frame) == 0b1010011100101101


# Colours


@pytest.mark.parametrize("extension", ["webm", "mp4"])
def test_the_container_s_matrix_is_applied_to_vp9_that_states_none(tmp_path: Path, extension: str) -> None:
    source = "color=c=0x28B450:s=128x96:d=0.5:r=10,scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
    tags = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
    coded = ["-c:v", "libvpx-vp9", "-crf", "4", "-b:v", "0", "-bsf:v", "vp9_metadata=color_space=unknown"]
    ffmpeg("-f", "lavfi", "-i", f"{source},{tags}", *coded, tmp_path / f"clip.{extension}")
    assert colours(tmp_path / f"clip.{extension}", 1)[0] == pytest.approx((40, 180, 80), abs=3)


def write_grey(path: Path, level: int, tags: str, codec: tuple[str, ...]) -> Path:
    """Write pictures of a 10-bit luma level."""
    source = f"color=s=128x96:d=0.4:r=10,format=yuv420p10le,geq=lum={level}:cb=512:cr=512,setparams=range=tv:{tags}"
    ffmpeg("-f", "lavfi", "-i", source, *codec, path)
    return path


HEVC = ("-c:v", "libx265", "-x265-params", "log-level=none")


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", HEVC), ("clip.mkv", ("-c:v", "ffv1")), ("clip.mov", HEVC)])
@pytest.mark.parametrize(
    ("transfer", "kind", "white"),
    [("arib-std-b67", "HLG", 0.75), ("smpte2084", "PQ", 0.58)],  # ITU-R BT.2408, table 1: reference white
)
def test_hdr_is_tone_mapped_and_logged(
    tmp_path: Path, name: str, codec: tuple[str, ...], transfer: str, kind: str, white: float,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    tags = f"colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}"
    clip = write_grey(tmp_path / name, round(64 + 876 * white), tags, codec)
    with caplog.at_level(logging.INFO, "videokit"):
        for colour in colours(clip, 2):
            assert min(colour) >= 235
            assert max(colour) - min(colour) <= 1
    assert f"{kind} tone-mapped to BT.709" in caplog.text
    assert max(colours(write_grey(tmp_path / name, 64, tags, codec), 1)[0]) <= 2  # black


def test_constant_luminance_is_refused(tmp_path: Path) -> None:
    tags = "colorspace=bt2020c:color_primaries=bt2020:color_trc=bt2020-10"
    with pytest.raises(InvalidInput, match=r"matrix bt2020c\) that cannot be converted; give it as H.264 in BT.709"):
        probe(write_grey(tmp_path / "clip.mkv", 500, tags, ("-c:v", "ffv1")))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mp4", ("-c:v", "libx264", "-x264-params", "tff=1", "-crf", "5")),
        ("clip.ts", ("-c:v", "mpeg2video", "-q:v", "2")),
        ("clip.mov", ("-c:v", "prores_ks")),
    ],
)
def test_interlaced_material_is_deinterlaced(tmp_path: Path, name: str, codec: tuple[str, ...]) -> None:
    # Each field is grey of another level, so a picture that is not deinterlaced has lines.
    source = "color=s=128x96:d=2:r=50,format=yuv422p,geq=lum='16+mod(N*97,220)':cb=128:cr=128"
    interlaced = ["-vf", "tinterlace=interleave_top,setfield=tff", "-flags", "+ildct+ilme"]
    ffmpeg("-f", "lavfi", "-i", source, *interlaced, *codec, tmp_path / name)
    for frame in decode(tmp_path / name, num_frames=4, width=128, height=96):
        assert np.abs(np.diff(frame[8:-8].astype(int), axis=0)).mean() < 5


@pytest.mark.parametrize(
    ("codec", "name"), [("libvpx", "clip.webm"), ("libvpx-vp9", "clip.webm"), ("libvpx-vp9", "clip.mkv")]
)
def test_the_alpha_of_a_webm_is_composited_over_black(tmp_path: Path, codec: str, name: str) -> None:
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., :3], picture[..., 3] = (200, 100, 50), 51  # alpha 1/5
    picture[:, 32:, 3] = 255
    options = {"crf": "4", "b": "2M", "auto-alt-ref": "0"}
    write_clip(tmp_path / name, [picture] * 5, codec=codec, pix_fmt="yuva420p", source="rgba", options=options)
    for frame in decode(tmp_path / name, num_frames=2, width=64, height=64):
        assert np.abs(frame[8:56, 8:24].mean(axis=(0, 1)) - [40, 20, 10]).max() <= 4
        assert np.abs(frame[8:56, 40:56].mean(axis=(0, 1)) - [200, 100, 50]).max() <= 6


# Truncated files


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_photograph_that_was_cut_is_refused_and_not_shown_half_grey(
    tmp_path: Path, share: float, options: dict[str, bool]
) -> None:
    snow = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    Image.fromarray(snow).save(tmp_path / "whole.jpg", **options)
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: round(len(data) * share)])
    with pytest.raises(InvalidInput, match=r"^cut\.jpg is truncated; give the complete file$"):
        probe(tmp_path / "cut.jpg")
    assert probe(tmp_path / "whole.jpg").num_frames == 1


@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
def test_an_mp4_with_sound_that_was_cut_between_its_pictures_is_truncated(tmp_path: Path, share: float) -> None:
    write_clip(tmp_path / "silent.mp4", LONG, options={"g": "10"})
    sound = ["-f", "lavfi", "-i", "anoisesrc=duration=8", "-c:v", "copy", "-c:a", "aac", "-b:a", "300k"]
    ffmpeg("-i", tmp_path / "silent.mp4", *sound, "-movflags", "faststart", tmp_path / "whole.mp4")
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: round(len(data) * share)])  # most bytes are sound
    with pytest.raises(InvalidInput, match=r"cut\.mp4 is truncated \d\.\d s after its start"):
        probe(tmp_path / "cut.mp4")
    assert probe(tmp_path / "whole.mp4").duration == pytest.approx(8, abs=0.05)
