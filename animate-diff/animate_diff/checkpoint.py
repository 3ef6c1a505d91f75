"""A personalised Stable Diffusion 1.5 checkpoint: the keys of the UNet's, VAE's and text encoder's parameters.

Such files use the names of CompVis' latent-diffusion. The functions below return the file's key for a parameter name of
diffusers or transformers.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from videokit.errors import WeightsError
from videokit.weights.tensors import format_keys, open_tensors, tensors_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import torch

logger = logging.getLogger("videokit")

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT_ENCODER = "cond_stage_model.transformer."

# Keys of real files outside the three parts: an averaged UNet, the noise schedule's tables, and a table of the numbers
# 0 to 76.
KNOWN_EXTRAS = re.compile(
    r"model_ema\.|.*position_ids$|(sqrt_|log_)?(one_minus_)?(alphas|betas)(_cumprod(_prev)?)?$"
    r"|sqrt_recip(m1)?_alphas_cumprod$|posterior_(variance|log_variance_clipped|mean_coef[12])$|logvar$|lvlb_weights$"
)

# ResnetBlock2D's children under CompVis' names in the UNet; in the VAE only the shortcut differs.
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_key(name: str, layers_per_block: int = 2) -> str:
    """Return the file's key of the UNet parameter `name` (UNet2DConditionModel's name).

    Source: the order of blocks in CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/openaimodel.py.
    """
    per_level = layers_per_block + 1  # down: the resnets and a downsampler; up: one resnet more

    def resnet_or_attention(block: int, kind: str, rest: str) -> str:
        return f"{block}.0.{_replace_prefix(rest, _UNET_RESNET)}" if kind == "resnets" else f"{block}.1.{rest}"

    if match := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
        block = 1 + int(match[1]) * per_level + int(match[3])
        return f"{UNET}input_blocks.{resnet_or_attention(block, match[2], match[4])}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", name):
        return f"{UNET}input_blocks.{(int(match[1]) + 1) * per_level}.0.op.{match[2]}"
    if match := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{UNET}middle_block.{2 * int(match[1])}.{_replace_prefix(match[2], _UNET_RESNET)}"
    if match := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", name):
        return f"{UNET}middle_block.1.{match[1]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
        block = int(match[1]) * per_level + int(match[3])
        return f"{UNET}output_blocks.{resnet_or_attention(block, match[2], match[4])}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", name):
        level = int(match[1])
        index = 1 if level == 0 else 2  # SD 1.5's first up block has no attention between resnet and upsampler
        return f"{UNET}output_blocks.{level * per_level + layers_per_block}.{index}.conv.{match[2]}"
    return UNET + _replace_prefix(name, _UNET_ENDS)


def vae_key(name: str, levels: int = 4) -> str:
    """Return the file's key of the VAE parameter `name` (AutoencoderKL's name) for a VAE with `levels` levels.

    Source: CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/model.py.
    """
    if match := re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|\w+samplers)\.(\d+)\.(.+)", name):
        half, way, block, kind, index, rest = match.groups()
        level = int(block) if way == "down" else levels - 1 - int(block)  # CompVis counts resolutions, not order
        inner = f"block.{index}.{_vae_resnet_key(rest)}" if kind == "resnets" else f"{way}sample.{rest}"
        return f"{VAE}{half}.{way}.{level}.{inner}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{VAE}{match[1]}.mid.block_{int(match[2]) + 1}.{_vae_resnet_key(match[3])}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)", name):
        return f"{VAE}{match[1]}.mid.attn_1.{_replace_prefix(match[2], _VAE_ATTENTION)}"
    return VAE + name.replace("conv_norm_out", "norm_out")


def text_encoder_key(name: str) -> str:
    """Return the file's key of the text encoder parameter `name` (CLIPTextModel's name, flat or not)."""
    return f"{TEXT_ENCODER}text_model.{name.removeprefix('text_model.')}"


class Checkpoint:
    """A memory-mapped checkpoint file with the tensors of a UNet, and often of a VAE and a text encoder."""

    def __init__(self, path: Path) -> None:
        """Open the file; raise WeightsError if it has no UNet or is a LoRA."""
        self.path = path
        self.tensors = open_tensors(path)
        self._used: set[str] = set()
        if not self.has(UNET):
            lora = [key for key in self.tensors if "lora" in key.lower()]
            if lora:
                raise WeightsError(
                    f"{path} is a LoRA ({format_keys(lora)}), not a checkpoint; "
                    "merge it into a Stable Diffusion 1.5 checkpoint and give that file"
                )
            raise WeightsError(
                f"{path} has no UNet (no key begins with {UNET}; it has {format_keys(self.tensors)}); "
                "give a single-file Stable Diffusion 1.5 checkpoint"
            )

    def has(self, part: str) -> bool:
        """Return whether the file has a part, given by its prefix."""
        return any(key.startswith(part) for key in self.tensors)

    def tensors_for(
        self, parameters: Mapping[str, torch.Tensor], key_of: Callable[[str], str]
    ) -> dict[str, torch.Tensor]:
        """Return the tensor for each parameter of a part; raise WeightsError if one is missing or has another shape."""
        found = tensors_for(parameters, self.tensors, key_of, self.path)
        self._used.update(map(key_of, parameters))
        return found

    def log_unknown_keys(self) -> None:
        """Log, in one line, the keys that no part used and that are of no known kind."""
        unknown = unknown_keys(self.tensors.keys() - self._used)
        if unknown:
            logger.info("%s: ignored %d unknown keys: %s", self.path.name, len(unknown), format_keys(unknown))


def unknown_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys that are not known to be superfluous, sorted."""
    return sorted(key for key in keys if not KNOWN_EXTRAS.match(key))


def _replace_prefix(name: str, table: Mapping[str, str]) -> str:
    """Return a dotted name with its first parts replaced by the table."""
    for old, new in table.items():
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def _vae_resnet_key(name: str) -> str:
    return _replace_prefix(name, {"conv_shortcut": "nin_shortcut"})
