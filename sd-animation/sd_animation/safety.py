"""The Stable Diffusion safety checker: it flags pictures that are too close to an unwanted concept.

It embeds a picture with CLIP and compares the embedding with those of 17 concepts. 3 more concepts, of special care,
lower the thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig
from videokit.finite import copy_with_flags, require_finite
from videokit.weights.keys import safety_checker_keys
from videokit.weights.kinds import SAFETY_CHECKER_FILE
from videokit.weights.load import load_module
from videokit.weights.stable_diffusion import SAFETY_CHECKER, SAFETY_CHECKER_CONFIG
from videokit.weights.tensors import open_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from videokit.runtime import Device
    from videokit.video.frames import Frame
    from videokit.weights.store import WeightStore

# openai/CLIP@d50d76d clip/clip.py, _transform
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
# diffusers v0.42.1 pipelines/stable_diffusion/safety_checker.py: special care lowers all thresholds by this, and scores
# are rounded to three digits
SPECIAL_CARE = 0.01
DIGITS = 3


class SafetyChecker:
    """The checker's network on a device."""

    def __init__(self, store: WeightStore, device: Device) -> None:
        """Build the network and load its weights, which are fetched if they are missing."""
        paths = store.fetch((SAFETY_CHECKER_CONFIG, SAFETY_CHECKER))
        store.refuse_mixture(SAFETY_CHECKER_CONFIG, SAFETY_CHECKER)
        config = CLIPConfig.from_pretrained(paths[SAFETY_CHECKER_CONFIG].parent)
        self.device = device
        self.side = config.vision_config.image_size
        file = paths[SAFETY_CHECKER]
        self.network = load_module(
            lambda: StableDiffusionSafetyChecker(config),
            device,
            open_tensors(file),
            safety_checker_keys,
            file,
            kind=SAFETY_CHECKER_FILE,
        )

    def flags(self, frames: Sequence[Frame]) -> list[bool]:
        """Return whether each frame is flagged. Raises NotFinite if a score is NaN or infinite."""
        network = self.network
        with torch.inference_mode():
            pictures = torch.stack([clip_picture(frame, self.side) for frame in frames])  # (N, 3, S, S)
            hidden = network.vision_model(pictures.to(self.device.device, self.device.dtype)).pooler_output
            embeds = network.visual_projection(hidden)  # (N, D)
            special = _scores(embeds, network.special_care_embeds, network.special_care_embeds_weights, 0.0)
            adjustment = (special > 0).any(dim=1, keepdim=True) * SPECIAL_CARE
            scores = _scores(embeds, network.concept_embeds, network.concept_embeds_weights, adjustment)
            flags = (scores > 0).any(dim=1).to(torch.uint8)
        flagged, finite = copy_with_flags(flags, special, scores)  # NaN is not above any threshold
        require_finite(all(finite), "safety checker", "its scores", self.device.dtype)
        return [bool(flag) for flag in flagged]


def clip_picture(frame: Frame, side: int) -> torch.Tensor:
    """Return a frame as CLIP's input, (3, side, side) float32: scaled to `side`, and cropped to its centre."""
    height, width = frame.shape[:2]
    shorter = min(height, width)
    image = Image.fromarray(frame).resize((side * width // shorter, side * height // shorter), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    normal = (square - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(normal).permute(2, 0, 1)


def _scores(
    embeds: torch.Tensor, concepts: torch.Tensor, thresholds: torch.Tensor, adjustment: torch.Tensor | float
) -> torch.Tensor:
    """Return how far the cosine of each picture and concept is above the concept's threshold, rounded."""
    cosines = torch.nn.functional.cosine_similarity(embeds[:, None].float(), concepts[None].float(), dim=-1)
    return (cosines - thresholds.float() + adjustment).round(decimals=DIGITS)
