"""Frames per second of encode_mp4 against imageio.v3.imwrite with the same settings.

    script/bench encode

It takes about 20 seconds on two idle cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import imageio.v3 as iio
import numpy as np
from tree import script_parser
from videokit.video.encode import MP4, MP4_FILTERS, encode_mp4

from benchmarks.measure import machine_line, paired

if TYPE_CHECKING:
    from videokit.video.frames import Frame

NUM_FRAMES = 120
SIDE = 512


def landscape() -> Frame:
    """Return a pan over noise whose amplitude falls as 1/f^1.2, about as in photographs: (F, SIDE, SIDE, 3).

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of cortical
    cells".
    """
    rng = np.random.default_rng(0)
    width = SIDE + 2 * NUM_FRAMES
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((3, SIDE, width))) / frequency**1.2
    channels = np.fft.irfft2(spectrum, (SIDE, width))
    scene = 120 + 45 * np.moveaxis(channels / channels.std(), 0, 2)
    pan = (scene[:, 2 * index : 2 * index + SIDE] for index in range(NUM_FRAMES))
    return np.stack([frame.round().clip(0, 255).astype(np.uint8) for frame in pan])


def encode_by_imageio(frames: Frame, target: Path) -> None:
    """Encode as imageio's documentation does, with the same settings."""
    settings = ["-vf", MP4_FILTERS, *MP4[2:]]  # without the codec
    iio.imwrite(target, frames, plugin="FFMPEG", fps=8, codec="libx264", quality=None, output_params=settings)


def main() -> None:
    script_parser(__doc__).parse_args()
    print(machine_line())
    frames = landscape()
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = Path(folder, "ours.mp4"), Path(folder, "plain.mp4")
        ours_seconds, plain_seconds, ratio = paired(
            lambda: encode_mp4(frames, ours, fps=8), lambda: encode_by_imageio(frames, plain)
        )
        print(f"encode: {NUM_FRAMES} frames of {SIDE}x{SIDE}, medians of 5")
        for name, seconds, file in (("encode_mp4", ours_seconds, ours), ("imageio", plain_seconds, plain)):
            print(f"  {name:11}{NUM_FRAMES / seconds:7.1f} frames/s {file.stat().st_size / 1000:8.0f} KB")
        print(f"  ratio {ratio:.2f} (above 1: encode_mp4 is faster)")
