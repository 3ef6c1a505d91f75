"""The device memory of a prediction, which bounds the number of frames.

The constants were counted on torch's meta device: the bytes of all tensors of the published architecture that exist at
the same time (tests/zeroscope/test_memory.py counts them again). Attention is fused, so its matrix never exists as a
whole. Prompts count as one window of 75 tokens each.
"""

from __future__ import annotations

# The UNet's peak is the feed-forward in its first temporal transformer. Values there for each latent pixel of each
# frame and pass, and each of the transformer's channels (8 heads): 20.9 were counted.
UNET_PEAK_VALUES = 22
# The VAE's peak is its last block. Values there for each pixel of a frame and each channel of the first block: 6.0 were
# counted.
VAE_PEAK_VALUES = 7


def unet_bytes(num_frames: int, width: int, height: int, *, guided: bool, head_width: int, itemsize: int) -> int:
    """Return the UNet's peak bytes without its parameters; `width` and `height` are the video's, in pixels."""
    pixels = (width // 8) * (height // 8)
    return UNET_PEAK_VALUES * (2 if guided else 1) * num_frames * pixels * 8 * head_width * itemsize


def vae_bytes(num_frames: int, width: int, height: int, *, channels: int, itemsize: int) -> int:
    """Return the VAE's peak bytes without its parameters for a batch of `num_frames` frames."""
    return VAE_PEAK_VALUES * num_frames * width * height * channels * itemsize
