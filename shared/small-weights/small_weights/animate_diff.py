"""Random weights for animate-diff: the base's folder, five single-file checkpoints and three motion modules.

The layouts are those that animate_diff/weights.py lists. The architecture is a `Size`: `tiny` runs on a laptop,
`full` has the sizes of Stable Diffusion 1.5, for measuring memory and time. The values are random but the same on
every machine: each tensor is drawn from a seed of its own name.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate import init_empty_weights
from animate_diff.checkpoint import base_text_encoder_key, base_vae_key, text_encoder_key, unet_key, vae_key
from animate_diff.inputs import CHECKPOINTS, MOTION_MODULES
from animate_diff.motion_module import original_key
from animate_diff.weights import BASE, BASE_TEXT_ENCODER, BASE_VAE
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from small_weights.tokenizer import write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
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


TINY = Size(8, (32, 64, 64, 64), (32, 32, 32, 64), 64, 2, 4, None)
FULL = Size(64, (320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 12, 49408)
SIZES = {"tiny": TINY, "full": FULL}


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


def motion_config(size: Size, name: str) -> dict[str, object]:
    """Return a motion module's configuration as MotionAdapter's config.json has it."""
    v2 = name.endswith("v2")
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": list(size.unet_channels),
        "motion_layers_per_block": 2,
        "motion_num_attention_heads": 8,
        "motion_norm_num_groups": 32,
        "motion_max_seq_length": 32 if v2 else 24,
        "use_motion_mid_block": v2,
    }


def write(directory: Path, size: Size) -> None:
    """Write everything that a prediction with any input may need; about 35 MB for `TINY`."""
    write_base(directory, size)
    for name in CHECKPOINTS:
        write_checkpoint(directory / "checkpoints" / name, size, name)
    # one of each way in which motion modules are shared
    write_motion_module(directory / "motion_modules" / f"{MOTION_MODULES[0]}.ckpt", size, MOTION_MODULES[0])
    write_motion_module(directory / "motion_modules" / f"{MOTION_MODULES[1]}.safetensors", size, MOTION_MODULES[1])
    write_motion_module(directory / "motion_modules" / MOTION_MODULES[2], size, MOTION_MODULES[2])


def write_base(directory: Path, size: Size) -> None:
    """Write the base's tokenizer and configurations, and its own VAE and text encoder."""
    tokens = write_tokenizer(directory / BASE / "tokenizer")
    configs = {"unet": unet_config(size), "vae": vae_config(size), "text_encoder": text_config(size, tokens)}
    for part, config in configs.items():
        file = directory / BASE / part / "config.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config, indent=2) + "\n")
    save_file(_half(random_tensors(vae(size), "base"), base_vae_key), directory / BASE_VAE)
    text = random_tensors(text_encoder(size, tokens), "base")
    save_file(_half(text, base_text_encoder_key), directory / BASE_TEXT_ENCODER)


def write_checkpoint(file: Path, size: Size, name: str) -> None:
    """Write a single-file checkpoint in CompVis' names, half precision, as personalised models are shared."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tokens = write_tokenizer(None)
    save_file(
        _half(random_tensors(unet(size), name), unet_key)
        | _half(random_tensors(vae(size), name), vae_key)
        | _half(random_tensors(text_encoder(size, tokens), name), text_encoder_key),
        file,
        metadata={"format": "pt"},
    )


def write_motion_module(path: Path, size: Size, name: str) -> None:
    """Write a motion module: the original layout to .ckpt or .safetensors, MotionAdapter's folder without suffix."""
    config = motion_config(size, name)
    with init_empty_weights():
        adapter = MotionAdapter.from_config(config)
    tensors = random_tensors(adapter, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.suffix:
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(tensors, path / "diffusion_pytorch_model.safetensors")
        return
    original = {original_key(key): tensor for key, tensor in tensors.items()}
    original |= {original_key(key): table for key, table in _position_tables(adapter).items()}
    if path.suffix == ".ckpt":
        torch.save(original, path)
    else:
        save_file(original, path)


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


def _position_tables(adapter: MotionAdapter) -> Mapping[str, torch.Tensor]:
    """The sines that the original layout keeps as a buffer in each of the two attentions of a block."""
    tables = {}
    for name, buffer in adapter.named_buffers():
        block = name.removesuffix("pos_embed.pe")
        for attention in ("attn1", "attn2"):
            tables[f"{block}{attention}.pos_encoder.pe"] = buffer.clone()
    return tables


def _half(tensors: Tensors, key_of: Callable[[str], str]) -> Tensors:
    return {key_of(name): tensor.half() for name, tensor in tensors.items()}
