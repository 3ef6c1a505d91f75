"""What the UNets of all models share: configuration, noise schedules, and a start as the identity.

The UNets predict the noise, as Stable Diffusion 1.5 does. At the first timestep of sampling the input is 99 % noise, so
the prediction is almost the input; what the caption adds is smaller than what a norm loses of the input's scale. A UNet
therefore starts as the identity, with a path from input to output that the norms hardly change.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from diffusers import DDIMScheduler
from random_weights import stable_diffusion as sd
from torch import nn

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel, UNet3DConditionModel

CHANNELS = (16, 24, 24, 24)
GROUPS = 4
HEAD_WIDTH = 8
CONSTANT = 4.0  # in each latent's norm group, so that the norm depends little on the latent's scale


def unet_config(text_width: int, sample_size: int) -> dict[str, object]:
    """Return the configuration of a UNet with Stable Diffusion 1.5's topology and few channels."""
    size = replace(sd.SMALL, sample_size=sample_size, unet_channels=CHANNELS, text_width=text_width, norm_groups=GROUPS)
    heads = [channels // HEAD_WIDTH for channels in CHANNELS]  # diffusers reads attention_head_dim as their number
    return sd.unet_config(size) | {"attention_head_dim": heads}


@torch.no_grad()
def init_as_identity(unet: UNet2DConditionModel | UNet3DConditionModel) -> None:
    """Set the weights so that the network returns its input.

    The skip connection carries conv_in's output to the last ResNet. Its shortcut passes each latent x as x and -x with
    two constants, which fill one group of conv_norm_out; silu(x) - silu(-x) = x undoes the activation. The other
    features keep their random weights; conv_out ignores them at first.
    """
    last = unet.up_blocks[-1].resnets[-1]
    shortcut = last.conv_shortcut
    latents, channels = unet.config.in_channels, unet.config.block_out_channels[0]
    width = channels // GROUPS  # channels of a group, at least 4
    scale = ((2 + 2 * CONSTANT**2) / width) ** 0.5  # the norm's divisor if the other channels were 0
    skipped = shortcut.in_channels - channels  # first channel of conv_in's output
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


def alphas_cumprod(schedule: str) -> torch.Tensor:
    """Return alpha_bar of the 1000 timesteps of a noise schedule of Stable Diffusion, linear or scaled_linear."""
    values: torch.Tensor = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=schedule).alphas_cumprod
    return values
