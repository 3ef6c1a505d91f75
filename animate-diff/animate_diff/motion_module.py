"""AnimateDiff's motion modules: reads both layouts on disk, and sets the UNet's norms for each of the two kinds.

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
from videokit.weights.kinds import MOTION_MODULE, refuse_other_kinds
from videokit.weights.places import find_in, names_of
from videokit.weights.quantization import EXTRAS
from videokit.weights.tensors import format_keys, open_tensors, tensors_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from diffusers import UNetMotionModel

logger = logging.getLogger("videokit")

MID_BLOCK = "mid_block."
ADAPTER_FILE = "diffusion_pytorch_model.safetensors"
V1_POSITIONS = 24  # of v14 and v15
# a table of sines, (1, positions, channels), that the UNet computes itself; its names in the two layouts
POSITIONS = (".pos_encoder.pe", ".pos_embed.pe")

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
    max_frames: int  # v14 and v15: 24; v15_v2 and v3: 32
    has_mid_block: bool

    @property
    def norms_over_frames(self) -> bool:
        """Whether the ResNets' norms and conv_norm_out compute their statistics over all frames of the clip.

        The original's `use_inflated_groupnorm` is false for v14 and v15 only. v3 has no mid block either, but has more
        positions (guoyww/AnimateDiff@e92bd56 configs/inference/inference-v1.yaml, -v2.yaml and -v3.yaml).
        """
        return not self.has_mid_block and self.max_frames <= V1_POSITIONS


def motion_keys(name: str) -> tuple[str, str]:
    """Return the keys of the UNet's motion parameter `name` in the original layout and in MotionAdapter's."""
    key = name
    for pattern, replacement in _ORIGINAL:
        key = re.sub(pattern, replacement, key)
    return key, name


def read_motion_module(path: Path, parameters: Mapping[str, torch.Tensor]) -> MotionModule:
    """Return a motion module of any layout and kind for the UNet's motion parameters.

    `path` is a file (pickle or safetensors) or a folder that MotionAdapter saved. Raises WeightsError if it is of
    another kind, or if a tensor is missing or has another shape.
    """
    folder = path if path.is_dir() else None
    file = _adapter_file(folder) if folder else path
    tensors = open_tensors(file)
    refuse_other_kinds(tensors, file, MOTION_MODULE)
    if not any(".motion_modules." in key for key in tensors):
        raise WeightsError(
            f"{file} is not a motion module (it has {format_keys(tensors)}); "
            "give one in AnimateDiff's or MotionAdapter's layout"
        )
    has_mid_block = any(key.startswith(MID_BLOCK) for key in tensors)
    wanted = {name: p for name, p in parameters.items() if has_mid_block or not name.startswith(MID_BLOCK)}
    found = tensors_for(wanted, tensors, motion_keys, file)
    used = {key for name in wanted for key in motion_keys(name)}
    unknown = sorted(key for key in tensors.keys() - used if not key.endswith(POSITIONS) and not EXTRAS.search(key))
    if unknown:
        logger.info("%s: ignored %d unknown keys: %s", path.name, len(unknown), format_keys(unknown))
    # A module of zeros adds nothing to its input, so a kind without mid block needs no other network.
    zeros = {
        name: torch.zeros((), dtype=p.dtype).expand(p.shape) for name, p in parameters.items() if name not in wanted
    }
    return MotionModule(found | zeros, _max_frames(tensors, folder, has_mid_block), has_mid_block)


def _adapter_file(folder: Path) -> Path:
    """Return the weight file in a folder that MotionAdapter saved, under any of its names."""
    if file := find_in(folder, ADAPTER_FILE):
        return file
    names = ", ".join(names_of(ADAPTER_FILE))
    raise WeightsError(f"{folder} has no weights of a MotionAdapter; store them there as one of {names}")


def _max_frames(tensors: Mapping[str, torch.Tensor], folder: Path | None, has_mid_block: bool) -> int:
    """Return how many positions the module was trained with, by its table, its config, or else its kind."""
    tables = [tensor for key, tensor in tensors.items() if key.endswith(POSITIONS) and tensor.ndim == 3]
    if tables:
        return tables[0].shape[1]
    config = folder and folder / "config.json"
    if config is None or not config.is_file():
        return 32 if has_mid_block else V1_POSITIONS
    try:
        return int(json.loads(config.read_text())["motion_max_seq_length"])
    except (ValueError, TypeError, LookupError):
        raise WeightsError(f"{config} has no number motion_max_seq_length; give the adapter's own file") from None


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
