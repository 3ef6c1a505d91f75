"""A personalised Stable Diffusion 1.5 checkpoint: a single file with UNet, VAE and text encoder.

Such files use the names of CompVis' latent-diffusion. `videokit.weights.keys` has those of the VAE and text encoder.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from videokit.errors import WeightsError
from videokit.weights.keys import UNET, replace_prefix
from videokit.weights.kinds import CHECKPOINT, refuse_other_kinds
from videokit.weights.quantization import EXTRAS
from videokit.weights.tensors import format_keys, open_tensors, tensors_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import torch
    from videokit.weights.keys import Keys

logger = logging.getLogger("videokit")

# Keys of real files outside the three parts: an averaged UNet, the noise schedule's tables, and a table of the numbers
# 0 to 76.
KNOWN_EXTRAS = re.compile(
    r"model_ema\.|.*position_ids$|(sqrt_|log_)?(one_minus_)?(alphas|betas)(_cumprod(_prev)?)?$"
    r"|sqrt_recip(m1)?_alphas_cumprod$|posterior_(variance|log_variance_clipped|mean_coef[12])$|logvar$|lvlb_weights$"
)

# ResnetBlock2D's children under CompVis' names in the UNet
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_keys(name: str, layers_per_block: int = 2) -> tuple[str]:
    """Return the file's only key of the UNet parameter `name` (UNet2DConditionModel's name).

    Source: the order of blocks in CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/openaimodel.py.
    """
    return (UNET + _compvis_unet_name(name, layers_per_block),)


def _compvis_unet_name(name: str, layers_per_block: int) -> str:
    per_level = layers_per_block + 1  # down: the resnets and a downsampler; up: one resnet more

    def resnet_or_attention(block: int, kind: str, rest: str) -> str:
        return f"{block}.0.{replace_prefix(rest, _UNET_RESNET)}" if kind == "resnets" else f"{block}.1.{rest}"

    if match := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
        block = 1 + int(match[1]) * per_level + int(match[3])
        return f"input_blocks.{resnet_or_attention(block, match[2], match[4])}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", name):
        return f"input_blocks.{(int(match[1]) + 1) * per_level}.0.op.{match[2]}"
    if match := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", name):
        return f"middle_block.{2 * int(match[1])}.{replace_prefix(match[2], _UNET_RESNET)}"
    if match := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", name):
        return f"middle_block.1.{match[1]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
        block = int(match[1]) * per_level + int(match[3])
        return f"output_blocks.{resnet_or_attention(block, match[2], match[4])}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", name):
        level = int(match[1])
        index = 1 if level == 0 else 2  # SD 1.5's first up block has no attention between resnet and upsampler
        return f"output_blocks.{level * per_level + layers_per_block}.{index}.conv.{match[2]}"
    return replace_prefix(name, _UNET_ENDS)


class Checkpoint:
    """A memory-mapped checkpoint file with the tensors of a UNet, and often of a VAE and a text encoder."""

    def __init__(self, path: Path) -> None:
        """Open the file; raise WeightsError if it has no UNet or is of another kind."""
        self.path = path
        self.tensors = open_tensors(path)
        self._used: set[str] = set()
        refuse_other_kinds(self.tensors, path, CHECKPOINT)
        if not self.has(UNET):
            raise WeightsError(
                f"{path} has no UNet (no key begins with {UNET}; it has {format_keys(self.tensors)}); "
                "give a single-file Stable Diffusion 1.5 checkpoint"
            )

    def has(self, part: str) -> bool:
        """Return whether the file has a part, given by its prefix."""
        return any(key.startswith(part) for key in self.tensors)

    def tensors_for(self, parameters: Mapping[str, torch.Tensor], keys_of: Keys) -> dict[str, torch.Tensor]:
        """Return the tensor for each parameter of a part; raise WeightsError if one is missing or has another shape."""
        found = tensors_for(parameters, self.tensors, keys_of, self.path)
        self._used.update(key for name in parameters for key in keys_of(name))
        return found

    def log_unknown_keys(self) -> None:
        """Log, in one line, the keys that no part used and that are of no known kind."""
        unknown = unknown_keys(self.tensors.keys() - self._used)
        if unknown:
            logger.info("%s: ignored %d unknown keys: %s", self.path.name, len(unknown), format_keys(unknown))


def unknown_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys that are not known to be superfluous, sorted."""
    return sorted(key for key in keys if not KNOWN_EXTRAS.match(key) and not EXTRAS.search(key))
