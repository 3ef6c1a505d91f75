"""Writes zeroscope's models as they were trained: each a folder as published, in half precision, without pickles."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from random_weights.stable_diffusion import half
from random_weights.tokenizer import write_tokenizer
from random_weights.zeroscope import SCHEDULER
from safetensors.torch import save_file
from videokit.weights.stable_diffusion import base_text_encoder_key
from zeroscope.weights import MODELS, TEXT_ENCODER, UNET, VAE

from demo_weights.train import autoencoder, video
from demo_weights.train.text_encoder import config as text_config

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import AutoencoderKL, UNet3DConditionModel
    from transformers import CLIPTextModel


def write_model(
    directory: Path, name: str, unet: UNet3DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel
) -> None:
    """Write one of zeroscope's models; VAE, text encoder and tokenizer are the same in all, and lie in each."""
    if name not in MODELS:
        raise ValueError(f"{name} is none of zeroscope's models: {', '.join(MODELS)}")
    folder = directory / name
    # pads with the end of text, as the text encoder was trained, and not with "!" as the published ones do
    tokens = write_tokenizer(folder / "tokenizer")
    configs = {
        "unet/config.json": video.unet_config(),
        "vae/config.json": autoencoder.CONFIG,
        "text_encoder/config.json": text_config(tokens).to_dict(),
        "scheduler/scheduler_config.json": SCHEDULER,
    }
    for path, config in configs.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config, indent=2) + "\n")
    parts = ((UNET, unet, str), (VAE, vae, str), (TEXT_ENCODER, text_encoder, base_text_encoder_key))
    for path, module, key_of in parts:
        tensors = {key: p.detach() for key, p in module.named_parameters()}
        save_file(half(tensors, key_of), (folder / path).with_suffix(".safetensors"), metadata={"format": "pt"})
