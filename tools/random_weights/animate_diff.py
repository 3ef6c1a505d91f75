"""Random weights for animate-diff: the base's folder, five single-file checkpoints and three motion modules.

The layouts are those of animate_diff/weights.py. `small` runs on a laptop; `full` has the sizes of Stable Diffusion
1.5, for measuring memory and time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate import init_empty_weights
from animate_diff.checkpoint import unet_keys
from animate_diff.inputs import CHECKPOINTS, MOTION_MODULES
from animate_diff.motion_module import motion_keys
from diffusers import MotionAdapter
from videokit.weights.keys import checkpoint_text_encoder_keys, checkpoint_vae_keys

from random_weights.stable_diffusion import FULL as FULL
from random_weights.stable_diffusion import SIZES as SIZES
from random_weights.stable_diffusion import SMALL as SMALL
from random_weights.stable_diffusion import (
    Size,
    half,
    random_tensors,
    text_encoder,
    unet,
    vae,
    write_base,
    write_config,
    write_tensors,
)
from random_weights.tokenizer import write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from random_weights.stable_diffusion import Tensors


def motion_config(size: Size, name: str) -> dict[str, object]:
    """Return the content of MotionAdapter's config.json for a motion module: v14, v15, v15_v2 or v3."""
    v2, v3 = name.endswith("v2"), name.startswith("v3")
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": list(size.unet_channels),
        "motion_layers_per_block": 2,
        "motion_num_attention_heads": 8,
        "motion_norm_num_groups": size.norm_groups,
        "motion_max_seq_length": 32 if v2 or v3 else 24,
        "use_motion_mid_block": v2,
    }


def write(directory: Path, size: Size) -> None:
    """Write the files for predictions with any input; about 35 MB for `SMALL`."""
    write_base(directory, size)
    for name in CHECKPOINTS:
        write_checkpoint(directory / "checkpoints" / name, size, name)
    # one of each layout in which motion modules are published
    write_motion_module(directory / "motion_modules" / f"{MOTION_MODULES[0]}.ckpt", size, MOTION_MODULES[0])
    write_motion_module(directory / "motion_modules" / f"{MOTION_MODULES[1]}.safetensors", size, MOTION_MODULES[1])
    write_motion_module(directory / "motion_modules" / MOTION_MODULES[2], size, MOTION_MODULES[2])


def write_checkpoint(file: Path, size: Size, name: str) -> None:
    """Write a single-file checkpoint in half precision, with CompVis' names as fine-tuned models are published."""
    text = random_tensors(text_encoder(size, write_tokenizer(None)), name)
    tensors = half(random_tensors(unet(size), name), unet_keys) | half(text, checkpoint_text_encoder_keys)
    tensors |= half(_compvis_shapes(random_tensors(vae(size), name)), checkpoint_vae_keys)
    write_tensors(file, tensors, {"format": "pt"})


def write_motion_module(path: Path, size: Size, name: str) -> None:
    """Write a motion module: the original layout to .ckpt or .safetensors, MotionAdapter's folder without suffix."""
    config = motion_config(size, name)
    with init_empty_weights():
        adapter = MotionAdapter.from_config(config)
    tensors = random_tensors(adapter, name)
    original = {motion_keys(key)[0]: tensor for key, tensor in (tensors | position_tables(adapter)).items()}
    if not path.suffix:
        write_config(path / "config.json", config)
        tables = {key: buffer.clone() for key, buffer in adapter.named_buffers()}
        write_tensors(path / "diffusion_pytorch_model.safetensors", tensors | tables)
    elif path.suffix == ".ckpt":
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(original, path)
    else:
        write_tensors(path, original)


def _compvis_shapes(vae: Tensors) -> Tensors:
    """Return a VAE's tensors with the weights of its attention as CompVis stores them: those of 1x1 convolutions."""
    return {
        key: tensor[..., None, None] if ".attentions." in key and tensor.ndim == 2 else tensor
        for key, tensor in vae.items()
    }


def position_tables(network: nn.Module, positions: int | None = None) -> Tensors:
    """Return the sines, which the original layout stores as a buffer in each of the two attentions of a block.

    `positions` is how many of them are stored, all by default.
    """
    tables = {}
    for name, sines in network.named_buffers():
        if name.endswith("pos_embed.pe"):
            block = name.removesuffix("pos_embed.pe")
            for attention in ("attn1", "attn2"):
                tables[f"{block}{attention}.pos_encoder.pe"] = sines[:, :positions].clone()
    return tables
