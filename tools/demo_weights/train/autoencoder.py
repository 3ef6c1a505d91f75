"""The VAE between the world's pictures and latents: Stable Diffusion's architecture and factor, few channels.

It learns from pictures of every look and of several sizes, cut to one. Its latents are whitened then, so that Stable
Diffusion's scaling factor gives them mean 0 and variance 1, channel by channel. At last the decoder goes on alone, on
whole pictures, as its norms and its attention see them where it is used, and from latents that are a little wrong, as a
UNet's are: so outlines are whole again.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL
from torch import nn

from demo_weights.train.training import Plan, fit
from demo_weights.world import LOOKS, draw, random_scene

if TYPE_CHECKING:
    from pathlib import Path

CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [16, 16, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.18215,
}
PLAN = Plan(steps=2400, learning_rate=2e-3, warm_up=30, mean_over=50)
DECODER = Plan(steps=10000, learning_rate=2e-3, warm_up=30, mean_over=100, seed=1)
SIDE = 32  # of what the network sees
BATCH = {64: 13, 128: 2, 256: 1}  # pictures by the side that they are drawn at
WHOLE = {64: 10, 128: 2, 256: 1}  # whole pictures at once, by their side
TURNS = (64, 64, 64, 128, 256)  # how often each side: the smallest is the hardest
WRONG = 0.1  # how far latents of whole pictures may be beside the right ones, in their deviations
KL = 1e-6
COLOURS = 3  # of a picture
CONSTANT = 6.0  # beside each colour in its norm's group: so the norm hardly feels how bright the picture is


def train(folder: Path) -> AutoencoderKL:
    """Train the VAE, whiten its latents, and train its decoder further."""
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(CONFIG)
    begin_as_blur(vae)

    def loss_at(step: int, draw_from: random.Random) -> torch.Tensor:
        pictures = some_pictures(draw_from)
        posterior = vae.encode(pictures).latent_dist
        error = vae.decode(posterior.sample()).sample - pictures
        too_far = KL * posterior.kl().mean() / posterior.mean[0].numel()
        loss: torch.Tensor = error.abs().mean() + error.square().mean() + too_far
        return loss

    fit("vae", vae.parameters(), PLAN, loss_at, folder)
    whiten(vae)

    def decoded_loss_at(step: int, draw_from: random.Random) -> torch.Tensor:
        pictures = whole_pictures(draw_from)
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.mean
        wrong = draw_from.uniform(0, WRONG) / vae.config.scaling_factor
        error = vae.decode(latents + wrong * torch.randn_like(latents)).sample - pictures
        loss: torch.Tensor = error.abs().mean() + error.square().mean()
        return loss

    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    fit("vae-decoder", decoder, DECODER, decoded_loss_at, folder)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def begin_as_blur(vae: AutoencoderKL) -> None:
    """Set the weights so that three latents are the mean colour of their 8x8 pixels, decoded as such, and branches 0.

    From random weights a network without skips takes ten times as many steps to show any colour rightly.
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
            module.conv.weight[:, :, :2, :2] = middle[..., None, None]  # padded to the right and below only
            nn.init.zeros_(module.conv.bias)
        elif kind == "Upsample2D":
            nn.init.dirac_(module.conv.weight)
            nn.init.zeros_(module.conv.bias)
    for conv in (vae.encoder.conv_in, vae.decoder.conv_in, vae.quant_conv, vae.post_quant_conv):
        conv.weight[:COLOURS] = 0
        conv.bias[:COLOURS] = 0
        for colour in range(COLOURS):
            conv.weight[colour, colour, conv.kernel_size[0] // 2, conv.kernel_size[0] // 2] = 1
    nn.init.dirac_(vae.quant_conv.weight)
    nn.init.zeros_(vae.quant_conv.bias)
    vae.encoder.conv_out.bias[COLOURS + 1 :] = -6  # log of the variance
    vae.encoder.conv_out.weight[COLOURS + 1 :] = 0
    _pass_colours(vae.encoder.down_blocks[2].resnets[0].conv_shortcut, vae.encoder.conv_out)
    _pass_colours(vae.decoder.up_blocks[2].resnets[0].conv_shortcut, vae.decoder.conv_out)


def _pass_colours(shortcut: nn.Conv2d, last: nn.Conv2d) -> None:
    """Take each colour x through a norm and its activation: x, -x, two constants fill a group; silu undoes itself."""
    assert shortcut.bias is not None
    assert last.bias is not None
    width = shortcut.out_channels // CONFIG["norm_num_groups"]
    scale = ((0.5 + 2 * CONSTANT**2) / width) ** 0.5  # what the norm divides by, were the other channels 0
    for colour in range(COLOURS):
        first = colour * width
        shortcut.weight[first : first + 4] = 0
        shortcut.bias[first : first + 4] = 0
        last.weight[colour] = 0
        last.bias[colour] = 0
        for channel, sign in ((first, 1), (first + 1, -1)):
            shortcut.weight[channel, colour, 0, 0] = sign
            shortcut.bias[channel + 2] = sign * CONSTANT
            last.weight[colour, channel, 1, 1] = sign * scale


def some_pictures(draw_from: random.Random) -> torch.Tensor:
    """Draw a batch of every size and look, (N, 3, SIDE, SIDE)."""
    parts = []
    for side, count in BATCH.items():
        scenes = [random_scene(draw_from) for _ in range(count)]
        times = torch.tensor([draw_from.random() for _ in scenes])
        pictures = draw(scenes, times, side, draw_from.choice(("flat", "flat", *LOOKS)))
        top, left = (8 * draw_from.randint(0, (side - SIDE) // 8) for _ in range(2))  # as the latents' cells lie
        parts.append(pictures[..., top : top + SIDE, left : left + SIDE])
    return torch.cat(parts)


def whole_pictures(draw_from: random.Random) -> torch.Tensor:
    """Draw a batch of one size, each picture in any look, (N, 3, side, side)."""
    side = draw_from.choice(TURNS)
    scenes = [random_scene(draw_from) for _ in range(WHOLE[side])]
    return torch.cat([draw([one], torch.tensor([draw_from.random()]), side, draw_from.choice(LOOKS)) for one in scenes])


@torch.no_grad()
def whiten(vae: AutoencoderKL) -> None:
    """Shift and scale each latent channel over flat pictures, in quant_conv and back in post_quant_conv."""
    draw_from = random.Random("whiten")
    scenes = [random_scene(draw_from) for _ in range(128)]
    times = torch.tensor([draw_from.random() for _ in scenes])
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
