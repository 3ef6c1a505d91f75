"""Random weights for zeroscope: its four models in the published layout, pickles in half precision, and LaMa.

The layout is that of zeroscope/weights.py. The UNets differ; text encoder and VAE are the same in all four. `small`
runs on a laptop at the documented sizes, from 256x256 up; `full` has the published sizes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from accelerate import init_empty_weights
from diffusers import UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from videokit.weights.keys import same_key, text_encoder_keys, vae_keys
from zeroscope.weights import LAMA, MODELS, TEXT_ENCODER, UNET, VAE

from random_weights import lama
from random_weights import stable_diffusion as sd
from random_weights.tokenizer import write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


SMALL = sd.Size(64, (8, 8, 16, 16), (8, 8, 8, 16), 32, 2, 2, None, head_width=8, norm_groups=8)
FULL = sd.Size(64, (320, 640, 1280, 1280), (128, 256, 512, 512), 1024, 23, 16, 49408, head_width=64, norm_groups=32)
SIZES = {"small": SMALL, "full": FULL}

# As in a repository of the same family. timestep_spacing is in no known one and must have no effect.
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
}


def unet_config(size: sd.Size) -> dict[str, object]:
    """Return the content of a published unet/config.json."""
    return {
        "_class_name": "UNet3DConditionModel",
        "sample_size": 32,
        "attention_head_dim": size.head_width,
        "block_out_channels": list(size.unet_channels),
        "cross_attention_dim": size.text_width,
        "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
        "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3,
        "layers_per_block": 2,
        "norm_num_groups": size.norm_groups,
    }


def text_config(size: sd.Size, tokens: int) -> dict[str, object]:
    """Return the content of a published text_encoder/config.json."""
    return sd.text_config(size, tokens) | {
        "projection_dim": size.text_width // 2,
        "hidden_act": "gelu",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def write(directory: Path, size: sd.Size) -> None:
    """Write the files for predictions with any input; about 4 MB for `SMALL`."""
    for model in MODELS:
        write_model(directory / model, size, model)
    lama.write(directory / LAMA, "full" if size == FULL else "small")


def write_model(folder: Path, size: sd.Size, name: str) -> None:
    """Write one model: configurations, tokenizer, and three pickles with the keys of 2023."""
    tokens = write_tokenizer(folder / "tokenizer")
    # Stable Diffusion 2's tokenizer pads with "!", which only this file says
    special = folder / "tokenizer" / "special_tokens_map.json"
    special.write_text(json.dumps({**json.loads(special.read_text()), "pad_token": "!"}, indent=2) + "\n")
    configs = {"unet": unet_config(size), "vae": sd.vae_config(size), "text_encoder": text_config(size, tokens)}
    sd.write_configs(folder, **configs)
    sd.write_config(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    with init_empty_weights():
        unet = UNet3DConditionModel.from_config(configs["unet"])
        text_encoder = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    torch.save(sd.half(sd.random_tensors(unet, name), same_key), folder / UNET)
    torch.save(sd.half(sd.random_tensors(sd.vae(size), "zeroscope"), vae_keys), folder / VAE)
    tensors = sd.half(sd.random_tensors(text_encoder, "zeroscope"), text_encoder_keys)
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]  # a buffer that transformers stored in 2023
    torch.save(tensors, folder / TEXT_ENCODER)
