"""A personalised Stable Diffusion 1.5 checkpoint: what its file calls the parameters of UNet, VAE and text encoder.

The names are those of CompVis' latent-diffusion, in which such files are shared; ours are diffusers' and
transformers'. The translation runs from our parameter to the file's key, so only what is needed is looked at.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from videokit.errors import WeightsError
from videokit.weights.tensors import open_tensors, shown, tensors_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import torch

logger = logging.getLogger("videokit")

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT_ENCODER = "cond_stage_model.transformer."

# Keys that real files carry beside the three parts: a second, averaged UNet, the noise schedule's tables, and a
# table of the numbers 0 to 76.
KNOWN_EXTRAS = re.compile(
    r"model_ema\.|.*position_ids$|(sqrt_|log_)?(one_minus_)?(alphas|betas)(_cumprod(_prev)?)?$"
    r"|sqrt_recip(m1)?_alphas_cumprod$|posterior_(variance|log_variance_clipped|mean_coef[12])$|logvar$|lvlb_weights$"
)

# ResnetBlock2D's children in CompVis' words: in the UNet, and in the VAE (where only the shortcut differs).
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
        return f"{block}.0.{_renamed(rest, _UNET_RESNET)}" if kind == "resnets" else f"{block}.1.{rest}"

    if match := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
        block = 1 + int(match[1]) * per_level + int(match[3])
        return f"{UNET}input_blocks.{resnet_or_attention(block, match[2], match[4])}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", name):
        return f"{UNET}input_blocks.{(int(match[1]) + 1) * per_level}.0.op.{match[2]}"
    if match := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{UNET}middle_block.{2 * int(match[1])}.{_renamed(match[2], _UNET_RESNET)}"
    if match := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", name):
        return f"{UNET}middle_block.1.{match[1]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
        block = int(match[1]) * per_level + int(match[3])
        return f"{UNET}output_blocks.{resnet_or_attention(block, match[2], match[4])}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", name):
        level = int(match[1])
        after = 1 if level == 0 else 2  # SD 1.5's first up block has no attention between resnet and upsampler
        return f"{UNET}output_blocks.{level * per_level + layers_per_block}.{after}.conv.{match[2]}"
    return UNET + _renamed(name, _UNET_ENDS)


def vae_key(name: str, levels: int = 4) -> str:
    """Return the file's key of the VAE parameter `name` (AutoencoderKL's name) for a VAE of so many levels.

    Source: CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/model.py.
    """
    if match := re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|\w+samplers)\.(\d+)\.(.+)", name):
        half, way, block, kind, index, rest = match.groups()
        level = int(block) if way == "down" else levels - 1 - int(block)  # CompVis counts resolutions, not order
        inner = f"block.{index}.{_resnet_in_vae(rest)}" if kind == "resnets" else f"{way}sample.{rest}"
        return f"{VAE}{half}.{way}.{level}.{inner}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{VAE}{match[1]}.mid.block_{int(match[2]) + 1}.{_resnet_in_vae(match[3])}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)", name):
        return f"{VAE}{match[1]}.mid.attn_1.{_renamed(match[2], _VAE_ATTENTION)}"
    return VAE + name.replace("conv_norm_out", "norm_out")


def text_encoder_key(name: str) -> str:
    """Return the file's key of the text encoder parameter `name` (CLIPTextModel's name, flat or not)."""
    return f"{TEXT_ENCODER}text_model.{name.removeprefix('text_model.')}"


class Checkpoint:
    """One file of weights, memory-mapped, from which each part takes its tensors."""

    def __init__(self, path: Path) -> None:
        """Open the file; raises WeightsError where it has no UNet, and says so where it is a LoRA."""
        self.path = path
        self.tensors = open_tensors(path)
        self._used: set[str] = set()
        if not self.has(UNET):
            lora = [key for key in self.tensors if "lora" in key.lower()]
            if lora:
                raise WeightsError(
                    f"{path} is a LoRA ({shown(lora)}), a difference to a checkpoint and none itself; "
                    "merge it into a Stable Diffusion 1.5 checkpoint and give that file"
                )
            raise WeightsError(
                f"{path} has no UNet (no key begins with {UNET}; it has {shown(self.tensors)}); "
                "give a single-file Stable Diffusion 1.5 checkpoint"
            )

    def has(self, part: str) -> bool:
        """Tell whether the file has anything of a part, given by its prefix."""
        return any(key.startswith(part) for key in self.tensors)

    def take(self, parameters: Mapping[str, torch.Tensor], key_of: Callable[[str], str]) -> dict[str, torch.Tensor]:
        """Return the tensor for each parameter of a part; raises WeightsError naming what is missing or misshapen."""
        found = tensors_for(parameters, self.tensors, key_of, self.path)
        self._used.update(map(key_of, parameters))
        return found

    def log_what_is_passed_over(self) -> None:
        """Log, in one line, the keys that no part took and that are of no known kind."""
        unknown = unknown_keys(self.tensors.keys() - self._used)
        if unknown:
            logger.info("%s: passed over %d unknown keys: %s", self.path.name, len(unknown), shown(unknown))


def unknown_keys(keys: Iterable[str]) -> list[str]:
    """Return those keys that are of no kind known to be superfluous, sorted."""
    return sorted(key for key in keys if not KNOWN_EXTRAS.match(key))


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """Exchange the beginning of a dotted name by the table."""
    for ours, theirs in table.items():
        if name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    return name


def _resnet_in_vae(name: str) -> str:
    return _renamed(name, {"conv_shortcut": "nin_shortcut"})
