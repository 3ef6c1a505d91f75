"""The VAE between the world's pictures and latents: Stable Diffusion's architecture and scaling factor, few channels.

It trains on crops of pictures of all styles and several sizes. Then its latents are whitened, so that the scaling
factor gives every channel mean 0 and variance 1. At last the decoder trains alone, on whole pictures and slightly noisy
latents, as its norms, its attention and a UNet's output need.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL
from random_weights import stable_diffusion as sd
from torch import nn

from demo_weights.train.loop import Plan, fit
from demo_weights.world import STYLES, draw, random_scene

if TYPE_CHECKING:
    from pathlib import Path

SIZE = replace(sd.SMALL, vae_channels=(16, 16, 32, 32), norm_groups=4)
CONFIG: dict[str, Any] = sd.vae_config(SIZE) | {"layers_per_block": 1}
del CONFIG["sample_size"]  # the models have pictures of several sizes
PLAN = Plan(steps=2400, learning_rate=2e-3, warmup_steps=30, average_steps=50)
DECODER = Plan(steps=10000, learning_rate=2e-3, warmup_steps=30, average_steps=100, seed=1)
CROP = 32  # side of a crop, in pixels
BATCH = {64: 13, 128: 2, 256: 1}  # number of crops by the side of their pictures
WHOLE_BATCH = {64: 10, 128: 2, 256: 1}  # number of whole pictures by their side
WHOLE_SIDES = (64, 64, 64, 128, 256)  # drawn uniformly; 64, the hardest, is the most frequent
MAX_NOISE = 0.1  # on latents of whole pictures, in their standard deviations
KL_WEIGHT = 1e-6
CHANNELS = 3  # of a picture
CONSTANT = 6.0  # in each channel's norm group, so that the norm depends little on the brightness


def train(folder: Path) -> AutoencoderKL:
    """Return the VAE: trained on crops, whitened, its decoder then trained further on whole pictures."""
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(CONFIG)
    init_as_blur(vae)

    def crop_loss(step: int, rng: random.Random) -> torch.Tensor:
        pictures = random_crops(rng)
        posterior = vae.encode(pictures).latent_dist
        error = vae.decode(posterior.sample()).sample - pictures
        kl = KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        loss: torch.Tensor = error.abs().mean() + error.square().mean() + kl
        return loss

    fit("vae", vae.parameters(), PLAN, crop_loss, folder)
    whiten(vae)

    def decoder_loss(step: int, rng: random.Random) -> torch.Tensor:
        pictures = whole_pictures(rng)
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.mean
        noise = rng.uniform(0, MAX_NOISE) / vae.config.scaling_factor
        error = vae.decode(latents + noise * torch.randn_like(latents)).sample - pictures
        loss: torch.Tensor = error.abs().mean() + error.square().mean()
        return loss

    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    fit("vae-decoder", decoder, DECODER, decoder_loss, folder)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def init_as_blur(vae: AutoencoderKL) -> None:
    """Set the weights so that three latents are the mean colour of their 8x8 pixels, and residual branches are 0.

    From random weights this network without skip connections takes ten times as many steps to learn the colours.
    """
    for module in vae.modules():
        kind = type(module).__name__
        if kind == "ResnetBlock2D":
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
        elif kind == "Attention":
            nn.init.zeros_(module.to_out[0].weight)
            nn.init.zeros_(module.to_out[0].bias)
        elif kind == "Downsample2D":
            nn.init.dirac_(module.conv.weight)
            middle = module.conv.weight[:, :, 1, 1] / 4
            module.conv.weight.zero_()
            module.conv.weight[:, :, :2, :2] = middle[..., None, None]  # padded on the right and at the bottom only
            nn.init.zeros_(module.conv.bias)
        elif kind == "Upsample2D":
            nn.init.dirac_(module.conv.weight)
            nn.init.zeros_(module.conv.bias)
    for conv in (vae.encoder.conv_in, vae.decoder.conv_in, vae.quant_conv, vae.post_quant_conv):
        conv.weight[:CHANNELS] = 0
        conv.bias[:CHANNELS] = 0
        for channel in range(CHANNELS):
            conv.weight[channel, channel, conv.kernel_size[0] // 2, conv.kernel_size[0] // 2] = 1
    nn.init.dirac_(vae.quant_conv.weight)
    nn.init.zeros_(vae.quant_conv.bias)
    vae.encoder.conv_out.bias[CHANNELS + 1 :] = -6  # log of the variance
    vae.encoder.conv_out.weight[CHANNELS + 1 :] = 0
    _pass_channels(vae.encoder.down_blocks[2].resnets[0].conv_shortcut, vae.encoder.conv_out)
    _pass_channels(vae.decoder.up_blocks[2].resnets[0].conv_shortcut, vae.decoder.conv_out)


def _pass_channels(shortcut: nn.Conv2d, last: nn.Conv2d) -> None:
    """Pass each channel x through a norm and its activation, as the group x, -x and two constants; see unet.py."""
    assert shortcut.bias is not None
    assert last.bias is not None
    width = shortcut.out_channels // CONFIG["norm_num_groups"]
    scale = ((0.5 + 2 * CONSTANT**2) / width) ** 0.5  # the norm's divisor if the other channels were 0
    for channel in range(CHANNELS):
        first = channel * width
        shortcut.weight[first : first + 4] = 0
        shortcut.bias[first : first + 4] = 0
        last.weight[channel] = 0
        last.bias[channel] = 0
        for feature, sign in ((first, 1), (first + 1, -1)):
            shortcut.weight[feature, channel, 0, 0] = sign
            shortcut.bias[feature + 2] = sign * CONSTANT
            last.weight[channel, feature, 1, 1] = sign * scale


def random_crops(rng: random.Random) -> torch.Tensor:
    """Return crops of pictures of every size, (N, 3, CROP, CROP)."""
    parts = []
    for side, count in BATCH.items():
        scenes = [random_scene(rng) for _ in range(count)]
        times = torch.tensor([rng.random() for _ in scenes])
        pictures = draw(scenes, times, side, rng.choice(("flat", "flat", *STYLES)))
        top, left = (8 * rng.randint(0, (side - CROP) // 8) for _ in range(2))  # aligned with the latents
        parts.append(pictures[..., top : top + CROP, left : left + CROP])
    return torch.cat(parts)


def whole_pictures(rng: random.Random) -> torch.Tensor:
    """Return pictures of one size, each in a random style, (N, 3, side, side)."""
    side = rng.choice(WHOLE_SIDES)
    scenes = [random_scene(rng) for _ in range(WHOLE_BATCH[side])]
    return torch.cat([draw([scene], torch.tensor([rng.random()]), side, rng.choice(STYLES)) for scene in scenes])


@torch.no_grad()
def whiten(vae: AutoencoderKL) -> None:
    """Give each latent channel mean 0 and variance 1 over flat pictures, by quant_conv and post_quant_conv."""
    rng = random.Random("whiten")
    scenes = [random_scene(rng) for _ in range(128)]
    times = torch.tensor([rng.random() for _ in scenes])
    moments = vae.encode(draw(scenes, times, 64)).latent_dist.mean
    mean, deviation = moments.mean(dim=(0, 2, 3)), moments.std(dim=(0, 2, 3))
    scale = 1 / (vae.config.scaling_factor * deviation)  # z' = scale (z - mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight /= scale[None, :, None, None]
    channels = len(mean)
    quant.bias[:channels] = scale * (quant.bias[:channels] - mean)
    quant.weight[:channels] *= scale[:, None, None, None]
    quant.bias[channels:] += 2 * scale.log()  # log of the variance
