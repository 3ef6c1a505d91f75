"""Writes the trained networks into the files that the models read: half precision, published names, no pickles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from animate_diff.checkpoint import unet_keys
from animate_diff.inputs import CHECKPOINTS
from animate_diff.motion_module import MID_BLOCK, motion_keys
from random_weights.stable_diffusion import half, write_config
from random_weights.tokenizer import write_tokenizer
from random_weights.zeroscope import SCHEDULER
from safetensors.torch import save_file
from videokit.weights.keys import same_key, text_encoder_keys, vae_keys
from videokit.weights.stable_diffusion import (
    BASE,
    BASE_TEXT_ENCODER,
    BASE_UNET,
    BASE_VAE,
)
from videokit.weights.textual_inversions import FOLDER
from zeroscope.weights import MODELS, TEXT_ENCODER, UNET, VAE

from demo_weights.train import autoencoder, zeroscope
from demo_weights.train.text_encoder import WIDTH as TEXT_WIDTH
from demo_weights.train.text_encoder import config as text_config
from demo_weights.train.unet import unet_config

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
    from torch import nn
    from transformers import CLIPTextModel

POSITIONS = {False: 24, True: 32}  # of a motion module, by whether it has a mid block


def write_base(directory: Path, sample_size: int, vae: AutoencoderKL, text_encoder: CLIPTextModel) -> None:
    """Write the base without its UNet's values: tokenizer, configurations, VAE and text encoder."""
    tokens = write_tokenizer(directory / BASE / "tokenizer")
    write_config(directory / BASE / "unet" / "config.json", unet_config(TEXT_WIDTH, sample_size))
    write_config(directory / BASE / "vae" / "config.json", autoencoder.CONFIG)
    write_config(directory / BASE / "text_encoder" / "config.json", text_config(tokens).to_dict())
    save_file(half(_parameters(vae), vae_keys), directory / BASE_VAE)
    save_file(half(_parameters(text_encoder), text_encoder_keys), directory / BASE_TEXT_ENCODER)


def write_base_unet(directory: Path, unet: UNet2DConditionModel) -> None:
    """Write the base's UNet for sd-animation."""
    save_file(half(_parameters(unet), same_key), directory / BASE_UNET)


def write_checkpoint(directory: Path, name: str, unet: UNet2DConditionModel) -> None:
    """Write a UNet as one of animate-diff's CHECKPOINTS, in CompVis' names; the VAE and text encoder are the base's."""
    if name not in CHECKPOINTS:
        raise ValueError(f"unknown checkpoint {name}; allowed: {', '.join(CHECKPOINTS)}")
    file = directory / "checkpoints" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(half(_parameters(unet), unet_keys), file, metadata={"format": "pt"})


def write_motion_module(directory: Path, name: str, unet: UNetMotionModel) -> None:
    """Write the motion module of a UNet as one of animate-diff's MOTION_MODULES, in the original layout."""
    has_mid_block = name.endswith("v2")
    motion = {key: p for key, p in _parameters(unet).items() if ".motion_modules." in key}
    if not has_mid_block:
        motion = {key: p for key, p in motion.items() if not key.startswith(MID_BLOCK)}
    # the original stores the sines as a buffer in each of the two attentions of a block
    for key, sines in unet.named_buffers():
        block = key.removesuffix("pos_embed.pe")
        if block != key and (has_mid_block or not key.startswith(MID_BLOCK)):
            table = sines[:, : POSITIONS[has_mid_block]].clone()
            motion |= {f"{block}{attention}.pos_encoder.pe": table.clone() for attention in ("attn1", "attn2")}
    file = directory / "motion_modules" / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(half(motion, motion_keys), file)


def write_textual_inversion(directory: Path, name: str, vectors: torch.Tensor) -> None:
    """Write vectors, (n, D), as a textual inversion in AUTOMATIC1111's layout."""
    file = directory / FOLDER / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(half({"emb_params": vectors}, same_key), file)


def write_zeroscope_model(
    directory: Path, name: str, unet: UNet3DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel
) -> None:
    """Write one of zeroscope's MODELS; each folder has its own copy of VAE, text encoder and tokenizer."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name}; allowed: {', '.join(MODELS)}")
    folder = directory / name
    # pads with the end of text, as in the text encoder's training; the published models pad with "!"
    tokens = write_tokenizer(folder / "tokenizer")
    write_config(folder / "unet" / "config.json", zeroscope.unet_config())
    write_config(folder / "vae" / "config.json", autoencoder.CONFIG)
    write_config(folder / "text_encoder" / "config.json", text_config(tokens).to_dict())
    write_config(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    parts = ((UNET, unet, same_key), (VAE, vae, same_key), (TEXT_ENCODER, text_encoder, text_encoder_keys))
    for path, module, keys_of in parts:
        file = (folder / path).with_suffix(".safetensors")
        save_file(half(_parameters(module), keys_of), file, metadata={"format": "pt"})


def _parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}
