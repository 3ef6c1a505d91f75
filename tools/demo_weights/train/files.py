"""Writes what was trained into the files that animate-diff and sd-animation read: half precision, published names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from animate_diff.checkpoint import unet_key
from animate_diff.inputs import CHECKPOINTS
from animate_diff.motion_module import MID_BLOCK, original_key
from random_weights.stable_diffusion import half
from random_weights.tokenizer import write_tokenizer
from safetensors.torch import save_file
from videokit.weights.stable_diffusion import (
    BASE,
    BASE_TEXT_ENCODER,
    BASE_UNET,
    BASE_VAE,
    base_text_encoder_key,
    base_vae_key,
)

from demo_weights.train import autoencoder
from demo_weights.train.denoiser import unet_config
from demo_weights.train.text_encoder import WIDTH as TEXT_WIDTH
from demo_weights.train.text_encoder import config as text_config

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel, UNetMotionModel
    from torch import nn
    from transformers import CLIPTextModel

POSITIONS = {False: 24, True: 32}  # that a motion module knows, by whether it has a mid block


def write_base(directory: Path, sample_size: int, vae: AutoencoderKL, text_encoder: CLIPTextModel) -> None:
    """Write the base without its UNet's values: tokenizer, configurations, VAE and text encoder."""
    tokens = write_tokenizer(directory / BASE / "tokenizer")
    configs = {
        "unet": unet_config(TEXT_WIDTH, sample_size),
        "vae": autoencoder.CONFIG,
        "text_encoder": text_config(tokens).to_dict(),
    }
    for part, config in configs.items():
        file = directory / BASE / part / "config.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config, indent=2) + "\n")
    save_file(half(_parameters(vae), base_vae_key), directory / BASE_VAE)
    save_file(half(_parameters(text_encoder), base_text_encoder_key), directory / BASE_TEXT_ENCODER)


def write_base_unet(directory: Path, unet: UNet2DConditionModel) -> None:
    """Write the base's UNet as sd-animation reads it."""
    save_file(half(_parameters(unet), str), directory / BASE_UNET)


def write_checkpoint(directory: Path, name: str, unet: UNet2DConditionModel) -> None:
    """Write one look of the base as one of animate-diff's CHECKPOINTS, in CompVis' names.

    It holds the UNet alone: all looks share the base's VAE and text encoder, which the pipeline takes then.
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"{name} is none of animate-diff's checkpoints")
    file = directory / "checkpoints" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(half(_parameters(unet), unet_key), file, metadata={"format": "pt"})


def write_motion_module(directory: Path, name: str, unet: UNetMotionModel) -> None:
    """Write the motion module of a UNet as `name`, one of animate-diff's, in the original layout."""
    has_mid_block = name.endswith("v2")
    motion = {key: p for key, p in _parameters(unet).items() if ".motion_modules." in key}
    if not has_mid_block:
        motion = {key: p for key, p in motion.items() if not key.startswith(MID_BLOCK)}
    # the sines that the original keeps as a buffer in each of the two attentions of a block
    for key, sines in unet.named_buffers():
        block = key.removesuffix("pos_embed.pe")
        if block != key and (has_mid_block or not key.startswith(MID_BLOCK)):
            table = sines[:, : POSITIONS[has_mid_block]].clone()
            motion |= {f"{block}{attention}.pos_encoder.pe": table.clone() for attention in ("attn1", "attn2")}
    file = directory / "motion_modules" / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(half(motion, original_key), file)


def _parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}
