"""Random Stable Diffusion 1.5: its configurations, its networks without values, and values for any network.

What the recipes of the models on this base share. A `Size` says how large the networks are; each tensor's values are
drawn from a seed of its own name, so they are the same on every machine.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel
from videokit.weights.stable_diffusion import BASE, BASE_TEXT_ENCODER, BASE_VAE, base_text_encoder_key, base_vae_key

from random_weights.tokenizer import write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Size:
    """How large the networks are; the topology is Stable Diffusion 1.5's always."""

    sample_size: int  # latents' side; the clip's is 8 times that
    unet_channels: tuple[int, int, int, int]
    vae_channels: tuple[int, int, int, int]
    text_width: int
    text_layers: int
    text_heads: int
    vocabulary: int | None  # of the text encoder; None is as many as the tokenizer has


SMALL = Size(8, (32, 64, 64, 64), (32, 32, 32, 64), 64, 2, 4, None)
FULL = Size(64, (320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 12, 49408)
SIZES = {"small": SMALL, "full": FULL}


def unet_config(size: Size) -> dict[str, object]:
    """Return the UNet's configuration as the base's unet/config.json has it."""
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": size.sample_size,
        "block_out_channels": list(size.unet_channels),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": size.text_width,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "norm_num_groups": 32,
    }


def vae_config(size: Size) -> dict[str, object]:
    """Return the VAE's configuration as the base's vae/config.json has it."""
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": 8 * size.sample_size,
        "block_out_channels": list(size.vae_channels),
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
    }


def text_config(size: Size, tokens: int) -> dict[str, object]:
    """Return the text encoder's configuration as the base's text_encoder/config.json has it."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": size.vocabulary or tokens,
        "hidden_size": size.text_width,
        "intermediate_size": 4 * size.text_width,
        "num_hidden_layers": size.text_layers,
        "num_attention_heads": size.text_heads,
        "projection_dim": size.text_width,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1,
        "pad_token_id": tokens - 1,
    }


def write_base(directory: Path, size: Size) -> None:
    """Write the base's tokenizer and configurations, and its own VAE and text encoder."""
    tokens = write_tokenizer(directory / BASE / "tokenizer")
    configs = {"unet": unet_config(size), "vae": vae_config(size), "text_encoder": text_config(size, tokens)}
    for part, config in configs.items():
        file = directory / BASE / part / "config.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config, indent=2) + "\n")
    save_file(half(random_tensors(vae(size), "base"), base_vae_key), directory / BASE_VAE)
    text = random_tensors(text_encoder(size, tokens), "base")
    save_file(half(text, base_text_encoder_key), directory / BASE_TEXT_ENCODER)


def unet(size: Size) -> UNet2DConditionModel:
    """Return the UNet without values."""
    with init_empty_weights():
        return UNet2DConditionModel.from_config(unet_config(size))


def vae(size: Size) -> AutoencoderKL:
    """Return the VAE without values."""
    with init_empty_weights():
        return AutoencoderKL.from_config(vae_config(size))


def text_encoder(size: Size, tokens: int) -> CLIPTextModel:
    """Return the text encoder without values, for a tokenizer of so many tokens."""
    with init_empty_weights():
        return CLIPTextModel(CLIPTextConfig(**text_config(size, tokens)))


def random_tensors(module: nn.Module, name: str) -> Tensors:
    """Draw float32 values for a module's parameters: norms do nothing, the rest keeps the variance of its input."""
    kind = type(module).__name__
    return {key: _random(f"{name}/{kind}/{key}", p.shape) for key, p in module.named_parameters()}


def _random(name: str, shape: torch.Size) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    inputs = shape[1:].numel()
    return torch.randn(shape, generator=generator).mul_(inputs**-0.5)


def half(tensors: Tensors, key_of: Callable[[str], str]) -> Tensors:
    """Return tensors in half precision under the names that their file has for them."""
    return {key_of(name): tensor.half() for name, tensor in tensors.items()}
