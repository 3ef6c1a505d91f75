"""zeroscope's UNet over frames: few channels of its topology, begun as the identity.

It knows a frame's number from the clip's two ends alone, where its convolutions over frames meet padding. How it is
trained is in video_training.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import nn
from zeroscope.models import convolve_in_two_dimensions

from demo_weights.train.denoiser import GROUPS, begin_as_identity
from demo_weights.train.text_encoder import WIDTH as TEXT_WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHANNELS = (16, 24, 24, 24)
SIDE = 256  # of a clip, in pixels: the least that zeroscope makes
HEAD_WIDTH = 4  # there are eight heads over frames at full size, whatever the channels; they are half of all time


def unet_config() -> dict[str, object]:
    """Return the configuration: published but for the sizes, one layer a level, and captions read from 16x16 on."""
    return {
        "_class_name": "UNet3DConditionModel",
        "sample_size": SIDE // 8,
        "attention_head_dim": HEAD_WIDTH,
        "block_out_channels": list(CHANNELS),
        "cross_attention_dim": TEXT_WIDTH,
        "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
        "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"],
        "layers_per_block": 1,
        "norm_num_groups": GROUPS,
    }


def build() -> UNet3DConditionModel:
    """Return the UNet, which returns its input yet, frame by frame."""
    torch.manual_seed(6)
    unet = UNet3DConditionModel.from_config(unet_config()).eval()  # without the dropout of its layers over frames
    begin_as_identity(unet)
    for module in unet.modules():
        if isinstance(module, TransformerTemporalModel):  # frames do not know of each other yet
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    convolve_in_two_dimensions(unet)
    return unet


def over_frames(unet: UNet3DConditionModel) -> list[nn.Module]:
    """Return the layers over frames that are trained: not the transformer at full size, the slowest of them."""
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return [module for block in blocks for module in block.modules() if is_over_frames(module)]


@contextmanager
def only(unet: UNet3DConditionModel, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let all layers over frames but these be passed by, as they may be while they return what they get."""
    passed = [module for module in unet.modules() if is_over_frames(module) and module not in layers]
    for module in passed:
        module.forward = _pass_by if isinstance(module, TemporalConvLayer) else _pass_by_in_tuple
    try:
        yield
    finally:
        for module in passed:
            del module.forward


def is_over_frames(module: nn.Module) -> bool:
    return isinstance(module, TemporalConvLayer | TransformerTemporalModel)


def _pass_by(hidden_states: torch.Tensor, **_: object) -> torch.Tensor:
    return hidden_states


def _pass_by_in_tuple(hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
    return (hidden_states,)
