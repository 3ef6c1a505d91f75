"""Latents of Stable Diffusion's VAE, and the frames that they are decoded to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from videokit.video.frames import frames_from_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusers import AutoencoderKL

    from videokit.video.frames import Frame

BATCH_PIXELS = 4 * 512 * 512  # that the VAE encodes or decodes in one batch; determines its peak memory


def vae_batch_size(height: int, width: int) -> int:
    """Return how many frames of a size in pixels go through the VAE in one batch.

    The size alone determines it, because the batch size changes the last digits of the result.
    """
    return max(1, BATCH_PIXELS // (height * width))


def decode_latents(vae: AutoencoderKL, latents: torch.Tensor, batch_size: int) -> Iterator[Frame]:
    """Decode latents, (N, C, h, w), to N frames, (H, W, 3) uint8 each, `batch_size` at a time."""
    scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
    for batch in scaled.split(batch_size):
        with torch.inference_mode():
            frames = frames_from_tensor(vae.decode(batch).sample)
        yield from frames
