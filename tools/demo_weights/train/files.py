"""Writes the trained networks into the files that the models read: half precision, published names, no pickles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from animate_diff.checkpoint import unet_keys
from animate_diff.motion_module import MID_BLOCK, motion_keys
from random_weights.animate_diff import position_tables
from random_weights.stable_diffusion import half, write_config, write_configs, write_tensors
from random_weights.tokenizer import write_tokenizer
from random_weights.zeroscope import SCHEDULER
from videokit.weights.keys import same_key, text_encoder_keys, vae_keys
from videokit.weights.stable_diffusion import BASE, BASE_TEXT_ENCODER, BASE_VAE
from videokit.weights.textual_inversions import FOLDER
from zeroscope.weights import TEXT_ENCODER, UNET, VAE

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
    from videokit.weights.keys import Keys

POSITIONS = {False: 24, True: 32}  # of a motion module, by whether it has a mid block
FORMAT = {"format": "pt"}  # the metadata of diffusers' files


def write_network(file: Path, network: nn.Module, keys_of: Keys, metadata: dict[str, str] | None = None) -> None:
    """Write the parameters of a network under their published names."""
    write_tensors(file, half(_parameters(network), keys_of), metadata)


def write_base(directory: Path, sample_size: int, vae: AutoencoderKL, text_encoder: CLIPTextModel) -> None:
    """Write the base without its UNet's values: tokenizer, configurations, VAE and text encoder."""
    text = text_config(write_tokenizer(directory / BASE / "tokenizer")).to_dict()
    unet = unet_config(TEXT_WIDTH, sample_size)
    write_configs(directory / BASE, unet=unet, vae=autoencoder.CONFIG, text_encoder=text)
    write_network(directory / BASE_VAE, vae, vae_keys)
    write_network(directory / BASE_TEXT_ENCODER, text_encoder, text_encoder_keys)


def write_checkpoint(directory: Path, name: str, unet: UNet2DConditionModel) -> None:
    """Write a UNet as one of animate-diff's CHECKPOINTS, in CompVis' names; the VAE and text encoder are the base's."""
    write_network(directory / "checkpoints" / name, unet, unet_keys, FORMAT)


def write_motion_module(directory: Path, name: str, unet: UNetMotionModel) -> None:
    """Write the motion module of a UNet as one of animate-diff's MOTION_MODULES, in the original layout."""
    has_mid_block = name.endswith("v2")
    tensors = {
        key: tensor
        for key, tensor in (_parameters(unet) | position_tables(unet, POSITIONS[has_mid_block])).items()
        if ".motion_modules." in key and (has_mid_block or not key.startswith(MID_BLOCK))
    }
    write_tensors(directory / "motion_modules" / f"{name}.safetensors", half(tensors, motion_keys))


def write_textual_inversion(directory: Path, name: str, vectors: torch.Tensor) -> None:
    """Write vectors, (n, D), as a textual inversion in AUTOMATIC1111's layout."""
    write_tensors(directory / FOLDER / f"{name}.safetensors", {"emb_params": vectors.half()})


def write_zeroscope_model(
    directory: Path, name: str, unet: UNet3DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel
) -> None:
    """Write one of zeroscope's MODELS; each folder has its own copy of VAE, text encoder and tokenizer."""
    folder = directory / name
    # pads with the end of text, as in the text encoder's training; the published models pad with "!"
    text = text_config(write_tokenizer(folder / "tokenizer")).to_dict()
    write_configs(folder, unet=zeroscope.unet_config(), vae=autoencoder.CONFIG, text_encoder=text)
    write_config(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_network((folder / UNET).with_suffix(".safetensors"), unet, same_key, FORMAT)
    write_network((folder / VAE).with_suffix(".safetensors"), vae, same_key, FORMAT)
    write_network((folder / TEXT_ENCODER).with_suffix(".safetensors"), text_encoder, text_encoder_keys, FORMAT)


def _parameters(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in network.named_parameters()}
