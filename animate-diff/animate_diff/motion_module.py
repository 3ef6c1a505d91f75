"""AnimateDiff's motion modules: two layouts on disk, two kinds, and the norms of the UNet with each kind.

diffusers' UNetMotionModel has every layer of AnimateDiff's network, but computes two kinds of GroupNorm over other
axes than the original. This module sets the axes of those norms on the instances, without a fork of the network.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from einops import rearrange
from torch import nn
from videokit.errors import WeightsError
from videokit.weights.tensors import format_keys, open_tensors, tensors_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from diffusers import UNetMotionModel

logger = logging.getLogger("videokit")

MID_BLOCK = "mid_block."
POSITIONS = ".pos_encoder.pe"  # a table of sines, (1, positions, channels), that the UNet computes itself

# diffusers' name -> the original's, inside one motion module (guoyww/AnimateDiff@a3b0bee motion_module.py)
_ORIGINAL = (
    (r"(motion_modules\.\d+)\.", r"\1.temporal_transformer."),
    (r"\.attn([12])\.", lambda match: f".attention_blocks.{int(match[1]) - 1}."),
    (r"\.norm([12])\.", lambda match: f".norms.{int(match[1]) - 1}."),
    (r"\.norm3\.", ".ff_norm."),
)


@dataclass(frozen=True)
class MotionModule:
    """The tensors of one motion module by the UNet's parameter names, and its kind."""

    tensors: dict[str, torch.Tensor]
    max_frames: int  # v14 and v15: 24; v15_v2: 32
    has_mid_block: bool

    @property
    def norms_over_frames(self) -> bool:
        """Whether the ResNets' norms and conv_norm_out compute their statistics over all frames of the clip.

        The original's `use_inflated_groupnorm` is false exactly for the modules without a mid block
        (guoyww/AnimateDiff@a3b0bee configs/inference/inference-v1.yaml and -v2.yaml).
        """
        return not self.has_mid_block


def original_key(name: str) -> str:
    """Return the key of the UNet's motion parameter `name` in the original layout."""
    for pattern, replacement in _ORIGINAL:
        name = re.sub(pattern, replacement, name)
    return name


def read_motion_module(path: Path, parameters: Mapping[str, torch.Tensor]) -> MotionModule:
    """Return a motion module of any layout and kind for the UNet's motion parameters.

    `path` is a file in the original layout (pickle or safetensors) or a folder that MotionAdapter saved; the keys
    determine the layout. Raises WeightsError if a tensor is missing or has another shape.
    """
    folder = path if path.is_dir() else None
    tensors = open_tensors(folder / "diffusion_pytorch_model.safetensors" if folder else path)
    original = any(".temporal_transformer." in key for key in tensors)
    if not original and not any(".motion_modules." in key for key in tensors):
        raise WeightsError(
            f"{path} is not a motion module (it has {format_keys(tensors)}); "
            "give one in AnimateDiff's or MotionAdapter's layout"
        )
    key_of = original_key if original else str
    has_mid_block = any(key.startswith(MID_BLOCK) for key in tensors)
    wanted = {name: p for name, p in parameters.items() if has_mid_block or not name.startswith(MID_BLOCK)}
    found = tensors_for(wanted, tensors, key_of, path)
    unknown = sorted(key for key in tensors.keys() - set(map(key_of, wanted)) if not key.endswith(POSITIONS))
    if unknown:
        logger.info("%s: ignored %d unknown keys: %s", path.name, len(unknown), format_keys(unknown))
    # A module of zeros adds nothing to its input, so a kind without mid block needs no other network.
    zeros = {
        name: torch.zeros((), dtype=p.dtype).expand(p.shape) for name, p in parameters.items() if name not in wanted
    }
    return MotionModule(found | zeros, _max_frames(tensors, folder, has_mid_block), has_mid_block)


def _max_frames(tensors: Mapping[str, torch.Tensor], folder: Path | None, has_mid_block: bool) -> int:
    """Return how many positions the module was trained with, by its table, its config, or else its kind."""
    table = next((tensor for key, tensor in tensors.items() if key.endswith(POSITIONS)), None)
    if table is not None:
        return table.shape[1]
    if folder is not None:
        return int(json.loads((folder / "config.json").read_text())["motion_max_seq_length"])
    return 32 if has_mid_block else 24


class FrameNorm(nn.GroupNorm):
    """A GroupNorm of (B, C, F, H, W) with statistics over one frame."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        frames = super().forward(rearrange(hidden, "b c f h w -> (b f) c h w"))
        return rearrange(frames, "(b f) c h w -> b c f h w", b=hidden.shape[0])


class ClipNorm(nn.GroupNorm):
    """A GroupNorm of (B * F, C, H, W) with statistics over `num_frames` frames."""

    num_frames = 1

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        clips = super().forward(rearrange(hidden, "(b f) c h w -> b c f h w", f=self.num_frames))
        return rearrange(clips, "b c f h w -> (b f) c h w")


def scope_norms(unet: UNetMotionModel) -> None:
    """Give the motion modules FrameNorm, and the other norms ClipNorm, whose frames `set_norm_scope` sets.

    The class of each norm is replaced, not the module, so parameters and their names stay.
    """
    unet.conv_norm_out.__class__ = ClipNorm
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            module.norm.__class__ = FrameNorm
        elif isinstance(module, ResnetBlock2D):
            module.norm1.__class__ = module.norm2.__class__ = ClipNorm


def set_norm_scope(unet: UNetMotionModel, num_frames: int) -> None:
    """Set the number of frames over which the ResNets' norms and conv_norm_out compute their statistics."""
    for module in unet.modules():
        if isinstance(module, ClipNorm):
            module.num_frames = num_frames
