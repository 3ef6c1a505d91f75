"""The keys of a network's parameters in its files: programs gave the same tensors different names.

Each function takes the name of a parameter in diffusers or transformers. It returns every key that the tensor may have
in a file, the published file's first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Keys = Callable[[str], Sequence[str]]

# before the keys of each part in a single-file checkpoint (CompVis/latent-diffusion@a506df5 ldm/models/diffusion)
UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT_ENCODER = "cond_stage_model.transformer."

# The layers of the VAE's attention: diffusers' names until May 2023, its names since then, and CompVis' names. Each is
# found in each of the two layouts, because converters translated either the one or the other.
_ATTENTION = {
    "to_q": ("query", "to_q", "q"),
    "to_k": ("key", "to_k", "k"),
    "to_v": ("value", "to_v", "v"),
    "to_out.0": ("proj_attn", "to_out.0", "proj_out"),
    "group_norm": ("group_norm", "norm"),
}


def same_key(name: str) -> tuple[str]:
    """Return the parameter's own name, for files in diffusers' layout."""
    return (name,)


def vae_keys(name: str, levels: int = 4) -> tuple[str, ...]:
    """Return the keys of the VAE parameter `name` (AutoencoderKL's name) in a file of a VAE with `levels` levels."""
    return (*_diffusers_vae_keys(name), *_compvis_vae_keys(name, levels))


def checkpoint_vae_keys(name: str, levels: int = 4) -> tuple[str, ...]:
    """Return the keys of the VAE parameter `name` (AutoencoderKL's name) in a single-file checkpoint."""
    return tuple(VAE + key for key in (*reversed(_compvis_vae_keys(name, levels)), *_diffusers_vae_keys(name)))


def text_encoder_keys(name: str) -> tuple[str, ...]:
    """Return the keys of the parameter `name` (CLIPTextModel's name, flat or not) in a file of a text encoder."""
    flat = name.removeprefix("text_model.")
    return f"text_model.{flat}", flat


def checkpoint_text_encoder_keys(name: str) -> tuple[str, ...]:
    """Return the keys of the parameter `name` (CLIPTextModel's name) in a checkpoint; NovelAI's are flat."""
    return tuple(TEXT_ENCODER + key for key in text_encoder_keys(name))


def safety_checker_keys(name: str) -> tuple[str, ...]:
    """Return the keys of the parameter `name` of StableDiffusionSafetyChecker.

    transformers' CLIPVisionModel had one more level when the checker was published.
    """
    return (f"vision_model.{name}", name) if name.startswith("vision_model.") else (name,)


def replace_prefix(name: str, table: Mapping[str, str]) -> str:
    """Return a dotted name with its first parts replaced by the table."""
    for old, new in table.items():
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def _attention(name: str) -> tuple[str, list[str]] | None:
    """Return the half of the VAE (`encoder`), and all names of a layer of its attention; None for other parameters."""
    match = re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(\w+)", name)
    return match and (match[1], [f"{layer}.{match[3]}" for layer in _ATTENTION[match[2]]])


def _diffusers_vae_keys(name: str) -> list[str]:
    attention = _attention(name)
    return [f"{attention[0]}.mid_block.attentions.0.{layer}" for layer in attention[1]] if attention else [name]


def _compvis_vae_keys(name: str, levels: int) -> list[str]:
    """Return the keys in CompVis' layout, its own names last.

    Source: CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/model.py.
    """
    if attention := _attention(name):
        return [f"{attention[0]}.mid.attn_1.{layer}" for layer in attention[1]]
    shortcut = {"conv_shortcut": "nin_shortcut"}
    if match := re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|\w+samplers)\.(\d+)\.(.+)", name):
        half, way, block, kind, index, rest = match.groups()
        level = int(block) if way == "down" else levels - 1 - int(block)  # CompVis counts resolutions, not order
        inner = f"block.{index}.{replace_prefix(rest, shortcut)}" if kind == "resnets" else f"{way}sample.{rest}"
        return [f"{half}.{way}.{level}.{inner}"]
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return [f"{match[1]}.mid.block_{int(match[2]) + 1}.{replace_prefix(match[3], shortcut)}"]
    return [name.replace("conv_norm_out", "norm_out")]
