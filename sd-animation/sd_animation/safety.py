"""The Stable Diffusion safety checker: which pictures are too near to a concept that it is to keep out.

It embeds a picture with CLIP and compares it with the embeddings of 17 concepts, and of 3 that make it stricter.
What is done about a hit is the pipeline's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig
from videokit.weights.stable_diffusion import SAFETY_CHECKER, SAFETY_CHECKER_CONFIG, empty_module
from videokit.weights.tensors import fill, open_tensors, tensors_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from videokit.runtime import Device
    from videokit.video.frames import Frame
    from videokit.weights.store import WeightStore

# openai/CLIP@d50d76d clip/clip.py, _transform
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
# diffusers v0.42.1 pipelines/stable_diffusion/safety_checker.py: all thresholds fall by so much near special care,
# and scores are rounded to three digits
SPECIAL_CARE = 0.01
DIGITS = 3


class SafetyChecker:
    """The checker's network on a device."""

    def __init__(self, store: WeightStore, device: Device) -> None:
        """Build it and load its weights, fetched where they are missing."""
        paths = store.fetch((SAFETY_CHECKER_CONFIG, SAFETY_CHECKER))
        config = CLIPConfig.from_pretrained(paths[SAFETY_CHECKER_CONFIG].parent)
        self.device = device
        self.network = empty_module(lambda: StableDiffusionSafetyChecker(config), device)
        self.side = config.vision_config.image_size
        parameters = dict(self.network.named_parameters())
        file = paths[SAFETY_CHECKER]
        fill(parameters, tensors_for(parameters, open_tensors(file), _published_key, file))

    def flags(self, frames: Sequence[Frame]) -> list[bool]:
        """Tell of each frame whether it should not be shown."""
        network = self.network
        with torch.inference_mode():
            pictures = torch.stack([clip_picture(frame, self.side) for frame in frames])  # (N, 3, S, S)
            hidden = network.vision_model(pictures.to(self.device.device, self.device.dtype)).pooler_output
            embeds = network.visual_projection(hidden)  # (N, D)
            care = _above(embeds, network.special_care_embeds, network.special_care_embeds_weights, 0.0)
            nearer = care.any(dim=1, keepdim=True) * SPECIAL_CARE
            bad = _above(embeds, network.concept_embeds, network.concept_embeds_weights, nearer)
        return [bool(flag) for flag in bad.any(dim=1).tolist()]


def clip_picture(frame: Frame, side: int) -> torch.Tensor:
    """Scale a frame's shorter side to `side` and crop the middle square, as CLIP sees it: (3, side, side) float32."""
    height, width = frame.shape[:2]
    shorter = min(height, width)
    image = Image.fromarray(frame).resize((side * width // shorter, side * height // shorter), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    normal = (square - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(normal).permute(2, 0, 1)


def _above(
    embeds: torch.Tensor, concepts: torch.Tensor, thresholds: torch.Tensor, nearer: torch.Tensor | float
) -> torch.Tensor:
    """Tell for each picture and concept whether their cosine is above the concept's threshold."""
    cosines = torch.nn.functional.cosine_similarity(embeds[:, None].float(), concepts[None].float(), dim=-1)
    return (cosines - thresholds.float() + nearer).round(decimals=DIGITS) > 0


def _published_key(name: str) -> str:
    """Return the file's key of a parameter: transformers' CLIPVisionModel had one level more when it was made."""
    return f"vision_model.{name}" if name.startswith("vision_model.") else name
