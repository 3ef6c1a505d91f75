"""The UNets: how they begin.

They predict the noise, as Stable Diffusion 1.5 and its relatives do, and sampling begins at a level where all but a
hundredth of the input is noise: there the answer is nearly the input itself, and what the caption asks for is a small
difference to it, less than what a norm loses of the input's strength in a few hundred numbers. So the network begins as
the identity, with a way from its input to its output that the norms hardly disturb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel, UNet3DConditionModel

CHANNELS = (16, 24, 24, 24)
GROUPS = 4
HEAD_WIDTH = 8
CONSTANT = 4.0  # beside each latent in its norm's group: so the norm hardly feels how strong the latent is


def unet_config(text_width: int, sample_size: int) -> dict[str, object]:
    """Return the configuration of the base's UNet: Stable Diffusion 1.5's topology, few channels."""
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "block_out_channels": list(CHANNELS),
        "layers_per_block": 2,
        "attention_head_dim": [channels // HEAD_WIDTH for channels in CHANNELS],  # how many heads, by an old slip
        "cross_attention_dim": text_width,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "norm_num_groups": GROUPS,
    }


@torch.no_grad()
def begin_as_identity(unet: UNet2DConditionModel | UNet3DConditionModel) -> None:
    """Set the weights so that the network returns its input.

    conv_in's output reaches the last ResNet beside the rest; its shortcut takes each latent x with -x and two
    constants, which fill one group of conv_norm_out; silu(x) - silu(-x) = x undoes the activation. The other features
    are there from the beginning, as they were drawn, but conv_out does not look at them yet.
    """
    last = unet.up_blocks[-1].resnets[-1]
    shortcut = last.conv_shortcut
    latents, channels = unet.config.in_channels, unet.config.block_out_channels[0]
    width = channels // GROUPS  # channels of a group, at least 4
    scale = ((2 + 2 * CONSTANT**2) / width) ** 0.5  # what the norm divides by, were the other channels 0
    skipped = shortcut.in_channels - channels  # where conv_in's output begins
    after = [attention.proj_out for attention in getattr(unet.up_blocks[-1], "attentions", [])[-1:]]
    for module in (last.conv2, shortcut, *after, unet.conv_out):
        for tensor in module.parameters():
            nn.init.zeros_(tensor)
    nn.init.zeros_(unet.conv_in.weight[:latents])
    nn.init.zeros_(unet.conv_in.bias[:latents])
    for latent in range(latents):
        unet.conv_in.weight[latent, latent, 1, 1] = 1
        first = latent * width
        for channel, sign in ((first, 1), (first + 1, -1)):
            shortcut.weight[channel, skipped + latent, 0, 0] = sign
            unet.conv_out.weight[latent, channel, 1, 1] = sign * scale
            shortcut.bias[channel + 2] = sign * CONSTANT


def alpha_bars(schedule: str) -> torch.Tensor:
    """Return alpha_bar of the 1000 noise levels of a schedule that the models use: linear, or scaled_linear."""
    first, last = 0.00085, 0.012
    if schedule == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, 1000) ** 2
    else:
        betas = torch.linspace(first, last, 1000)
    return (1 - betas).cumprod(0)
