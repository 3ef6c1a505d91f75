"""Latents of Stable Diffusion's VAE, and the frames that they are decoded to."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import torch

from videokit.finite import require_finite
from videokit.video.frames import frames_with_flags

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from diffusers import AutoencoderKL

    from videokit.video.frames import Frame

logger = logging.getLogger("videokit")

BATCH_PIXELS = 4 * 512 * 512  # that the VAE encodes or decodes in one batch; determines its peak memory


def vae_batch_size(height: int, width: int) -> int:
    """Return how many frames of a size in pixels go through the VAE in one batch.

    The size alone determines it, because the batch size changes the last digits of the result.
    """
    return max(1, BATCH_PIXELS // (height * width))


def decode_latents(vae: AutoencoderKL, latents: torch.Tensor, batch_size: int) -> Iterator[Frame]:
    """Decode latents, (N, C, h, w), to N frames, (H, W, 3) uint8 each, `batch_size` at a time.

    Raises NotFinite as `decode_batches` does.
    """
    return decode_batches(vae, torch.split(latents, batch_size))


def decode_batches(vae: AutoencoderKL, batches: Iterable[torch.Tensor]) -> Iterator[Frame]:
    """Decode batches of latents, (N, C, h, w) float32 each, to frames, (H, W, 3) uint8 each.

    From the first batch that overflows in float16 on, the frames are decoded in float32. Raises NotFinite if latents or
    pictures are NaN or infinite.
    """
    for batch in batches:
        frames, latents_finite, finite = _decode(vae, batch)
        require_finite(latents_finite, "denoise", "the latents", vae.dtype)
        if not finite and vae.dtype == torch.float16:
            vae = float32_copy(vae, "decode")
            frames, _, finite = _decode(vae, batch)
        require_finite(finite, "decode", "the VAE's pictures", vae.dtype)
        yield from frames


def float32_copy(vae: AutoencoderKL, stage: str) -> AutoencoderKL:
    """Return a copy of a VAE in float32, and log that the VAE overflowed.

    A copy, because a cancel in the middle of a conversion would leave a VAE of two precisions.
    """
    logger.info("%s: the VAE overflowed in float16, so it runs again in float32", stage)
    return copy.deepcopy(vae).float()


@torch.inference_mode()
def _decode(vae: AutoencoderKL, latents: torch.Tensor) -> tuple[Frame, bool, bool]:
    """Return the frames of a batch, (N, H, W, 3), and whether its latents and its pictures are finite."""
    pictures = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
    frames, (latents_finite, finite) = frames_with_flags(pictures, latents, pictures)
    return frames, latents_finite, finite
