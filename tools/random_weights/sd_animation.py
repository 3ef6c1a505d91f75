"""Random weights for sd-animation: Stable Diffusion 1.5 with its safety checker, and FILM.

The layout is that of sd_animation/weights.py. `small` runs on a laptop at the documented sizes, from 128x128 up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate import init_empty_weights
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from sd_animation.weights import FILM
from transformers import CLIPConfig
from videokit.weights.keys import safety_checker_keys, same_key
from videokit.weights.stable_diffusion import BASE_UNET, SAFETY_CHECKER, SAFETY_CHECKER_CONFIG

from random_weights import film
from random_weights import stable_diffusion as sd

if TYPE_CHECKING:
    from pathlib import Path

SIZES = sd.SIZES
SMALL, FULL = sd.SMALL, sd.FULL


def safety_config(
    hidden_size: int, intermediate_size: int, layers: int, heads: int, patch_size: int, projection_dim: int
) -> dict[str, object]:
    """Return the content of a base's safety_checker/config.json."""
    vision = {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": patch_size,
        "image_size": 224,
        "projection_dim": projection_dim,
    }
    return {
        "architectures": ["StableDiffusionSafetyChecker"],
        "model_type": "clip",
        "projection_dim": projection_dim,
        "vision_config": vision,
    }


def write(directory: Path, size: sd.Size) -> None:
    """Write the files for predictions with any input; about 9 MB for `SMALL`."""
    sd.write_base(directory, size)
    sd.write_tensors(directory / BASE_UNET, sd.half(sd.random_tensors(sd.unet(size), "base"), same_key))
    write_safety_checker(directory, size)
    film.write(directory / FILM, film.FULL if size == FULL else film.SMALL)


def write_safety_checker(directory: Path, size: sd.Size) -> None:
    """Write a safety checker that passes everything; with random thresholds its result would be random."""
    small = safety_config(64, 128, layers=2, heads=4, patch_size=32, projection_dim=32)
    full = safety_config(1024, 4096, layers=24, heads=16, patch_size=14, projection_dim=768)
    config = full if size == FULL else small
    sd.write_config(directory / SAFETY_CHECKER_CONFIG, config)
    with init_empty_weights():
        checker = StableDiffusionSafetyChecker(CLIPConfig(**config))
    tensors = sd.random_tensors(checker, "base")
    for name in ("concept_embeds_weights", "special_care_embeds_weights"):
        tensors[name] = torch.ones_like(tensors[name])  # no cosine is above 1
    sd.write_tensors(directory / SAFETY_CHECKER, sd.half(tensors, safety_checker_keys))
