"""Moving test pictures from formulas, the same on every machine, their PSNR, and the frames of a file."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import imageio.v3 as iio
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videokit.video.frames import Frame


def natural(num_frames: int, width: int = 512, height: int = 512) -> Iterator[Frame]:
    """Yield a pan over a landscape whose amplitude spectrum falls as 1/f, as that of photographs does.

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of cortical
    cells". Colour differences are smoother than brightness, as in photographs; a bright disc crosses the picture.
    """
    rng = np.random.default_rng(0)
    wide = width + 2 * num_frames
    # (height, wide) each; the slopes are exponents of spatial frequency
    light, warmth, tint = (_noise(rng, height, wide, slope) for slope in (1.2, 1.7, 1.7))
    scene = 120 + 45 * light[..., None] + 25 * warmth[..., None] * [1, 0, -1] + 15 * tint[..., None] * [-0.5, 1, -0.5]
    y, x = np.mgrid[:height, :width]
    for index in range(num_frames):
        disc = np.hypot(x - width * (index + 1) / (num_frames + 1), y - height / 3) - height / 10
        cover = np.clip(0.5 - disc / 3, 0, 1)[..., None]  # three pixels of soft edge
        picture = scene[:, 2 * index : 2 * index + width] * (1 - cover) + cover * [235, 200, 120]
        yield np.clip(picture.round(), 0, 255).astype(np.uint8)


def gradient(num_frames: int, width: int = 256, height: int = 256) -> Iterator[Frame]:
    """Yield the light of a red, a green and a blue lamp that circle on a dark wall: a smooth, moving gradient."""
    y, x = np.mgrid[:height, :width]
    for index in range(num_frames):
        light = np.full((height, width, 3), 6.0)
        for lamp, colour in enumerate(([240, 40, 20], [30, 220, 60], [40, 60, 240])):
            angle = 2 * np.pi * (index / num_frames + lamp / 3)
            across, down = x / width - 0.5 - 0.35 * np.cos(angle), y / height - 0.5 - 0.35 * np.sin(angle)
            light += (1 + (across**2 + down**2) / 0.12**2)[..., None] ** -2.0 * colour
        yield np.clip(light.round(), 0, 255).astype(np.uint8)


def hues(num_frames: int, width: int = 256, height: int = 256) -> Iterator[Frame]:
    """Yield all hues from left to right, from black at the top to full light at the bottom, moving sideways."""
    y, x = np.mgrid[:height, :width]
    for index in range(num_frames):
        turns = (x / width + index / num_frames)[..., None] + np.arange(3) / 3
        yield ((0.5 + 0.5 * np.sin(2 * np.pi * turns)) * (255 * y / height)[..., None]).round().astype(np.uint8)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of 8-bit pictures in dB."""
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def decode_mp4(content: bytes) -> np.ndarray:
    """Return the frames of an MP4, (F, H, W, 3), as imageio decodes them."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # imageio-ffmpeg does not close its pipes
        return iio.imread(content, plugin="FFMPEG", extension=".mp4")


def _noise(rng: np.random.Generator, height: int, width: int, slope: float) -> np.ndarray:
    """Return (height, width) noise of unit variance whose amplitude spectrum falls as 1/f^slope."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency**slope, (height, width))
    return noise / noise.std()
