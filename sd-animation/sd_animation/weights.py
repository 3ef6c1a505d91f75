"""The weight files of sd-animation: Stable Diffusion 1.5 with its safety checker, and FILM.

The layout below a weights directory is the same for real weights, demo weights and your own:

    stable-diffusion-v1-5/   tokenizer, and unet/, vae/, text_encoder/, safety_checker/ with configuration and weights
    film/                    film_net_fp16.safetensors
    embeddings/              textual inversions, NAME.safetensors, .pt or .bin; fetched when a prompt names one
"""

from __future__ import annotations

from videokit.weights.stable_diffusion import CONFIGURATION, SAFETY, TEXT_AND_PICTURES, UNET
from videokit.weights.table import HubFile, WeightFile
from videokit.weights.textual_inversions import TEXTUAL_INVERSIONS

FILM = "film/film_net_fp16.safetensors"

FILES = (
    *CONFIGURATION,
    *TEXT_AND_PICTURES,
    *UNET,
    *SAFETY,
    WeightFile(
        FILM,
        HubFile(
            "Comfy-Org/frame_interpolation",
            "219da3c9d8c357ceaf457fc1d5932c6e861b8dee",
            "frame_interpolation/film_net_fp16.safetensors",
        ),
        "Apache-2.0",
        68882302,
        "f226e51375dc839d4b40e5c3d63da560dd1ea1c962364ec78f5adf2d05db05c0",
    ),
    *TEXTUAL_INVERSIONS,
)
SETUP = tuple(file.path for file in FILES if file not in TEXTUAL_INVERSIONS)  # what every prediction needs
