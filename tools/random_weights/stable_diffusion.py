"""Random weights of Stable Diffusion 1.5: configurations, networks without values, and random values for any network.

A `Size` gives the size of the networks. Each tensor is drawn from a seed of its own name, so the values are the same on
every machine.
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
from videokit.weights.keys import text_encoder_keys, vae_keys
from videokit.weights.stable_diffusion import BASE, BASE_TEXT_ENCODER, BASE_VAE

from random_weights.tokenizer import write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn
    from videokit.weights.keys import Keys

    Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Size:
    """The size of the networks; the topology is always that of Stable Diffusion 1.5."""

    sample_size: int  # latents' side; the clip's is 8 times that
    unet_channels: tuple[int, int, int, int]
    vae_channels: tuple[int, int, int, int]
    text_width: int
    text_layers: int
    text_heads: int
    vocabulary: int | None  # of the text encoder; None: that of the tokenizer
    head_width: int = 8  # as attention_head_dim, which some networks read as the number of heads
    norm_groups: int = 32


SMALL = Size(8, (32, 64, 64, 64), (32, 32, 32, 64), 64, 2, 4, None)
FULL = Size(64, (320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 12, 49408)
SIZES = {"small": SMALL, "full": FULL}


def unet_config(size: Size) -> dict[str, object]:
    """Return the content of the base's unet/config.json."""
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": size.sample_size,
        "block_out_channels": list(size.unet_channels),
        "layers_per_block": 2,
        "attention_head_dim": size.head_width,
        "cross_attention_dim": size.text_width,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "norm_num_groups": size.norm_groups,
    }


def vae_config(size: Size) -> dict[str, object]:
    """Return the content of the base's vae/config.json."""
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": 8 * size.sample_size,
        "block_out_channels": list(size.vae_channels),
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": size.norm_groups,
        "scaling_factor": 0.18215,
    }


def text_config(size: Size, tokens: int) -> dict[str, object]:
    """Return the content of the base's text_encoder/config.json."""
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
    """Write the base's tokenizer, configurations, VAE and text encoder."""
    tokens = write_tokenizer(directory / BASE / "tokenizer")
    text = text_config(size, tokens)
    write_configs(directory / BASE, unet=unet_config(size), vae=vae_config(size), text_encoder=text)
    write_tensors(directory / BASE_VAE, half(random_tensors(vae(size), "base"), vae_keys))
    tensors = random_tensors(text_encoder(size, tokens), "base")
    write_tensors(directory / BASE_TEXT_ENCODER, half(tensors, text_encoder_keys))


def write_configs(directory: Path, **configs: Mapping[str, object]) -> None:
    """Write the config.json of each part, in a directory with its name."""
    for part, config in configs.items():
        write_config(directory / part / "config.json", config)


def write_config(file: Path, config: Mapping[str, object]) -> None:
    """Write a configuration as JSON, in a directory that is created if it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config, indent=2) + "\n")


def write_tensors(file: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, in a directory that is created if it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata)


def unet(size: Size) -> UNet2DConditionModel:
    """Return the UNet without values."""
    with init_empty_weights():
        return UNet2DConditionModel.from_config(unet_config(size))


def vae(size: Size) -> AutoencoderKL:
    """Return the VAE without values."""
    with init_empty_weights():
        return AutoencoderKL.from_config(vae_config(size))


def text_encoder(size: Size, tokens: int) -> CLIPTextModel:
    """Return the text encoder without values, for a tokenizer with this number of tokens."""
    with init_empty_weights():
        return CLIPTextModel(CLIPTextConfig(**text_config(size, tokens)))


def random_tensors(module: nn.Module, name: str) -> Tensors:
    """Return random float32 parameters of a module: norms are the identity, other layers preserve variance."""
    kind = type(module).__name__
    return {key: _random(f"{name}/{kind}/{key}", p.shape) for key, p in module.named_parameters()}


def _random(name: str, shape: torch.Size) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    inputs = shape[1:].numel()
    return torch.randn(shape, generator=generator).mul_(inputs**-0.5)


def half(tensors: Tensors, keys_of: Keys) -> Tensors:
    """Return tensors in half precision under their published names."""
    return {keys_of(name)[0]: tensor.half() for name, tensor in tensors.items()}
