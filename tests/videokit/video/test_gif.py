"""The frames, times and colours of a GIF, as Pillow and a parser of the GIF89a specification read them."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pictures
import pytest
from PIL import Image
from videokit.errors import InvalidInput
from videokit.video.encode import encode_gif

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from videokit.video.frames import Frame


class Blocks(NamedTuple):
    delays: list[int]  # centiseconds, one for each Graphic Control Extension
    images: int
    local_palettes: int
    loops: list[int]


def parse_blocks(content: bytes) -> Blocks:
    """Return what a GIF's blocks state (GIF89a sections 17 to 27, and the Netscape 2.0 loop block)."""
    assert content[:6] == b"GIF89a"
    delays, loops, images, local_palettes = [], [], 0, 0
    at = 13 + (3 * (2 << (content[10] & 7)) if content[10] & 0x80 else 0)

    def sub_blocks() -> bytes:
        nonlocal at
        data = b""
        while length := content[at]:
            data += content[at + 1 : at + 1 + length]
            at += 1 + length
        at += 1
        return data

    while (introducer := content[at]) != 0x3B:
        if introducer == 0x21:
            label, at = content[at + 1], at + 2
            data = sub_blocks()
            if label == 0xF9:
                delays.append(int.from_bytes(data[1:3], "little"))
            elif label == 0xFF and data.startswith(b"NETSCAPE2.0\x01"):
                loops.append(int.from_bytes(data[12:14], "little"))
        else:
            assert introducer == 0x2C
            flags, at = content[at + 9], at + 10
            if flags & 0x80:
                local_palettes += 1
                at += 3 * (2 << (flags & 7))
            at += 1  # the LZW code's size
            sub_blocks()
            images += 1
    assert at == len(content) - 1
    return Blocks(delays, images, local_palettes, loops)


def read_with_pillow(file: Path | BytesIO) -> tuple[np.ndarray, list[int]]:
    """Return the frames, (F, H, W, 3), and their durations in milliseconds."""
    frames, durations = [], []
    with Image.open(file) as gif:
        for index in range(gif.n_frames):
            gif.seek(index)
            frames.append(np.asarray(gif.convert("RGB")))
            durations.append(gif.info["duration"])
    return np.stack(frames), durations


def reencode_with_pillow(frames: Sequence[Frame]) -> np.ndarray:
    """Return the frames of Pillow's own GIF, which has a palette for each frame."""
    images, file = [Image.fromarray(frame) for frame in frames], BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=50, loop=0)
    return read_with_pillow(file)[0]


def blur(frames: np.ndarray) -> np.ndarray:
    """Return the frames blurred with a Gaussian of one pixel, as an eye sees dithered colours from a distance."""
    weights = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    for axis in (1, 2):
        frames = sum(np.roll(frames, by, axis) * w for by, w in zip(range(-3, 4), weights / weights.sum(), strict=True))
    return frames


@pytest.mark.parametrize("fps", [8, 10, 12, 24, 30, 50, Fraction(25, 2), Fraction(30000, 1001), Fraction(1, 2)])
def test_no_frame_starts_more_than_half_a_centisecond_off(tmp_path: Path, fps: int) -> None:
    clip = encode_gif(pictures.gradient(31, 16, 16), tmp_path / "clip.gif", fps=fps)
    delays = parse_blocks(clip.path.read_bytes()).delays
    assert read_with_pillow(clip.path)[1] == [10 * delay for delay in delays]
    for frame in range(1, 32):
        assert abs(sum(delays[:frame]) - 100 * frame / Fraction(fps)) <= Fraction(1, 2)


def test_30_fps_alternates_3_and_4_centiseconds(tmp_path: Path) -> None:
    clip = encode_gif(pictures.gradient(30, 16, 16), tmp_path / "clip.gif", fps=30)
    assert parse_blocks(clip.path.read_bytes()).delays == [3, 4, 3] * 10


def test_repeated_frames_are_all_written_with_their_durations(tmp_path: Path) -> None:
    one, two = pictures.gradient(2, 64, 64)
    frames = [one, one, one, two, two, one, one]
    clip = encode_gif(frames, tmp_path / "clip.gif", fps=10)
    assert parse_blocks(clip.path.read_bytes())[:2] == ([10] * 7, 7)
    seen, durations = read_with_pillow(clip.path)
    assert (len(seen), durations) == (7, [100] * 7)
    assert [pictures.psnr(frame, expected) > 35 for frame, expected in zip(seen, frames, strict=True)] == [True] * 7


def test_a_gif_loops_forever_and_has_one_palette(tmp_path: Path) -> None:
    clip = encode_gif(pictures.hues(8, 64, 64), tmp_path / "clip.gif", fps=8)
    parsed = parse_blocks(clip.path.read_bytes())
    assert (parsed.loops, parsed.local_palettes, parsed.images) == ([0], 0, 8)
    with Image.open(clip.path) as gif:
        assert gif.info["loop"] == 0


def test_256_colours_are_exact_to_one_level(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    frames = np.stack([np.roll(colours, step, axis=0).reshape(16, 16, 3) for step in range(5)])
    seen, _ = read_with_pillow(encode_gif(frames, tmp_path / "clip.gif", fps=8).path)
    np.testing.assert_allclose(seen.astype(int), frames, rtol=0, atol=1)


def test_odd_sides_are_allowed(tmp_path: Path) -> None:
    frames = np.stack(list(pictures.gradient(3, 17, 15)))
    assert read_with_pillow(encode_gif(frames, tmp_path / "clip.gif", fps=8).path)[0].shape == (3, 15, 17, 3)


@pytest.mark.parametrize("fps", [51, 60, Fraction(1, 601)])
def test_an_fps_that_no_browser_shows_raises_invalid_input(tmp_path: Path, fps: int) -> None:
    with pytest.raises(InvalidInput, match=rf"fps={fps} is out of range for a GIF \(1/600 to 50\)"):
        encode_gif(pictures.gradient(2, 16, 16), tmp_path / "clip.gif", fps=fps)
    assert list(tmp_path.iterdir()) == []


def test_a_moving_gradient_is_at_least_1_5_db_better_than_pillows_palette_for_each_frame(tmp_path: Path) -> None:
    frames = np.stack(list(pictures.gradient(16)))
    ours, _ = read_with_pillow(encode_gif(frames, tmp_path / "clip.gif", fps=20).path)
    assert pictures.psnr(frames, ours) >= pictures.psnr(frames, reencode_with_pillow(frames)) + 1.5


def test_more_hues_than_256_are_1_5_db_better_than_pillows_when_blurred(tmp_path: Path) -> None:
    # Error diffusion lowers the PSNR of single pixels and raises that of the blurred picture, which the eye sees.
    frames = np.stack(list(pictures.hues(16)))
    ours, _ = read_with_pillow(encode_gif(frames, tmp_path / "clip.gif", fps=20).path)
    expected = pictures.psnr(blur(frames), blur(reencode_with_pillow(frames))) + 1.5
    assert pictures.psnr(blur(frames), blur(ours)) >= expected
