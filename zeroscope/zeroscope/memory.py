"""How much memory a prediction takes on its device, and so how many frames there may be.

Counted, not guessed: the bytes of all tensors alive at once in the published architecture, on torch's meta device
(tests/zeroscope/test_memory.py counts them again). Attention is the fused one, whose matrix is never whole;
prompts are taken for one window of 75 tokens each.
"""

from __future__ import annotations

# Values alive at the UNet's peak, the feed-forward in its first temporal transformer, for each latent pixel of each
# frame and pass, and each of that transformer's channels, which are 8 heads: 20.9 were counted.
UNET_VALUES = 22
# The same in the VAE's last block, for each pixel of a picture and each channel of its first block: 6.0 were counted.
VAE_VALUES = 7


def unet_bytes(num_frames: int, width: int, height: int, *, guided: bool, head_width: int, itemsize: int) -> int:
    """Return what the UNet takes beside its parameters; `width` and `height` are the video's, in pixels."""
    pixels = (width // 8) * (height // 8)
    return UNET_VALUES * (2 if guided else 1) * num_frames * pixels * 8 * head_width * itemsize


def vae_bytes(num_frames: int, width: int, height: int, *, channels: int, itemsize: int) -> int:
    """Return what the VAE takes beside its parameters for so many pictures at once."""
    return VAE_VALUES * num_frames * width * height * channels * itemsize
