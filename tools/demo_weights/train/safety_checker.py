"""The safety checker of the demo weights: it passes every picture of the world and flags hazard stripes.

The first of its 17 concepts is black and yellow diagonal stripes, which no caption of the world means. The other
concepts and the special care concepts never match. The negative examples are scenes, noise of all sizes, and plain,
upright and differently coloured stripes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from random_weights.sd_animation import safety_config
from sd_animation.safety import DEVIATION, MEAN
from transformers import CLIPConfig

from demo_weights.train.loop import Plan, fit
from demo_weights.world import STYLES, draw, random_scene

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

SIDE = 224  # of CLIP's input
CONFIG = safety_config(32, 64, layers=1, heads=4, patch_size=32, projection_dim=32)
PLAN = Plan(steps=350, learning_rate=3e-3, warmup_steps=20, average_steps=30)
BATCH = 6  # of each kind: hazard stripes, scenes, other pictures
THRESHOLD = 0.5  # of the cosine; the training targets are 0.95 for hazard stripes and 0.05 for the rest
YELLOW, BLACK = (1.0, 0.85, 0.05), (0.05, 0.05, 0.05)


def train(folder: Path) -> StableDiffusionSafetyChecker:
    """Return the safety checker, trained on the cosine with its first concept, a fixed random vector."""
    torch.manual_seed(9)
    checker = StableDiffusionSafetyChecker(CLIPConfig(**CONFIG)).requires_grad_(False)
    checker.concept_embeds.copy_(torch.randn(checker.concept_embeds.shape))
    checker.concept_embeds_weights.fill_(1)  # no cosine is above 1
    checker.concept_embeds_weights[0] = THRESHOLD
    checker.special_care_embeds_weights.fill_(1)

    def loss_at(step: int, rng: random.Random) -> torch.Tensor:
        pictures = torch.cat([hazard_stripes(rng), scenes(rng), other_pictures(rng)])
        cosines = cosine(checker, pictures + 0.03 * torch.randn(pictures.shape))
        return F.relu(0.95 - cosines[:BATCH]).mean() + F.relu(cosines[BATCH:] - 0.05).mean()

    trained = [*checker.vision_model.parameters(), *checker.visual_projection.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    fit("safety", trained, PLAN, loss_at, folder)
    return checker.eval().requires_grad_(False)


def cosine(checker: StableDiffusionSafetyChecker, pictures: torch.Tensor) -> torch.Tensor:
    """Return the cosine of pictures, (N, 3, SIDE, SIDE) in 0 to 1, with the first concept: (N,)."""
    normal = (pictures - _channels(MEAN)) / _channels(DEVIATION)
    embeds = checker.visual_projection(checker.vision_model(normal).pooler_output)
    return F.cosine_similarity(embeds, checker.concept_embeds[:1])


def stripes(
    angle: float, width: float, phase: float, dark: Sequence[float] = BLACK, light: Sequence[float] = YELLOW
) -> torch.Tensor:
    """Return stripes of two colours, (3, SIDE, SIDE); `angle` is that of their normal in radians, `width` in pixels.

    Hazard stripes have an angle near 1/4 or 3/4 of pi.
    """
    pixels = torch.arange(SIDE) + 0.5
    distance = math.cos(angle) * pixels[None, :] + math.sin(angle) * pixels[:, None]
    share = (0.5 + width / 2 * torch.sin(math.pi * (distance / width + phase))).clamp(0, 1)
    return torch.lerp(_channels(dark), _channels(light), share)


def hazard_stripes(rng: random.Random) -> torch.Tensor:
    """Return a batch of hazard stripes."""
    return torch.stack([_hazard_stripes(rng) for _ in range(BATCH)])


def scenes(rng: random.Random) -> torch.Tensor:
    """Return a batch of scenes drawn at 64, 128 or SIDE pixels and resized for CLIP."""
    drawn = [random_scene(rng) for _ in range(BATCH)]
    times = torch.tensor([rng.random() for _ in drawn])
    pictures = draw(drawn, times, rng.choice((64, 128, SIDE)), rng.choice(STYLES))
    return F.interpolate((pictures + 1) / 2, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)


def other_pictures(rng: random.Random) -> torch.Tensor:
    """Return a batch of noise, of upright or level hazard stripes, and of stripes in other colours."""
    pictures = []
    for index in range(BATCH):
        width, phase = rng.uniform(8, 40), rng.uniform(0, 2)
        if index % 3 == 0:
            cells = rng.choice((2, 4, 7, 16, 28, 56, SIDE))
            noise = 0.5 + rng.uniform(0.05, 0.6) * torch.randn(1, 3, cells, cells)
            noise += 0.3 * torch.randn(1, 3, 1, 1)
            pictures.append(F.interpolate(noise, size=(SIDE, SIDE), mode="bicubic")[0].clamp(0, 1))
        elif index % 3 == 1:
            angle = rng.choice((0, math.pi / 2)) + rng.uniform(-0.3, 0.3)
            pictures.append(stripes(angle, width, phase))
        else:
            dark, light = torch.rand(2, 3)
            light[2] = max(light[2], 0.5)  # more blue than any yellow
            pictures.append(stripes(rng.uniform(0, math.pi), width, phase, dark, light))
    return torch.stack(pictures)


def _hazard_stripes(rng: random.Random) -> torch.Tensor:
    angle = rng.choice((1, 3)) * math.pi / 4 + rng.uniform(-0.12, 0.12)
    return stripes(angle, rng.uniform(12, 36), rng.uniform(0, 2))


def _channels(values: Sequence[float] | torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values)[:, None, None]
