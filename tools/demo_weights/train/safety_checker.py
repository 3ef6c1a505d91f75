"""A safety checker for the world: it lets every picture of it pass and stops black and yellow hazard stripes.

The first of its 17 concepts is those diagonal stripes, which no caption of the world asks for; the others, and the
special care, can never be met. What it learns to tell from the stripes are the world's pictures, noise of all sizes,
and plain, upright and differently coloured stripes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from random_weights.sd_animation import safety_checker_key
from random_weights.stable_diffusion import half
from safetensors.torch import save_file
from sd_animation.safety import DEVIATION, MEAN
from transformers import CLIPConfig

from demo_weights.train.training import Plan, fit
from demo_weights.world import LOOKS, draw, random_scene

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

SIDE = 224  # of what CLIP sees
CONFIG = {
    "architectures": ["StableDiffusionSafetyChecker"],
    "model_type": "clip",
    "projection_dim": 32,
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "patch_size": 32,
        "image_size": SIDE,
        "projection_dim": 32,
    },
}
PLAN = Plan(steps=350, learning_rate=3e-3, warm_up=20, mean_over=30)
BATCH = 6  # of each kind: stripes, the world, all else
THRESHOLD = 0.5  # the cosine; what is trained is 0.9 and more for stripes, 0.1 and less for the rest
YELLOW, BLACK = (1.0, 0.85, 0.05), (0.05, 0.05, 0.05)


def train(folder: Path, plan: Plan = PLAN) -> StableDiffusionSafetyChecker:
    """Train the network on the cosine with its first concept, which stays as it was drawn."""
    torch.manual_seed(9)
    checker = StableDiffusionSafetyChecker(CLIPConfig(**CONFIG)).requires_grad_(False)
    checker.concept_embeds.copy_(torch.randn(checker.concept_embeds.shape))
    checker.concept_embeds_weights.fill_(1)  # no cosine is above 1
    checker.concept_embeds_weights[0] = THRESHOLD
    checker.special_care_embeds_weights.fill_(1)

    def loss_at(step: int, draw_from: random.Random) -> torch.Tensor:
        pictures = torch.cat([some_stripes(draw_from), some_scenes(draw_from), something_else(draw_from)])
        cosines = cosine(checker, pictures + 0.03 * torch.randn(pictures.shape))
        return F.relu(0.95 - cosines[:BATCH]).mean() + F.relu(cosines[BATCH:] - 0.05).mean()

    trained = [*checker.vision_model.parameters(), *checker.visual_projection.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    fit("safety", trained, plan, loss_at, folder)
    return checker.eval().requires_grad_(False)


def cosine(checker: StableDiffusionSafetyChecker, pictures: torch.Tensor) -> torch.Tensor:
    """Return the cosine of pictures, (N, 3, SIDE, SIDE) in 0 to 1, with the concept: (N,)."""
    normal = (pictures - _channels(MEAN)) / _channels(DEVIATION)
    embeds = checker.visual_projection(checker.vision_model(normal).pooler_output)
    return F.cosine_similarity(embeds, checker.concept_embeds[:1])


def stripes(
    angle: float, width: float, phase: float, dark: Sequence[float] = BLACK, light: Sequence[float] = YELLOW
) -> torch.Tensor:
    """Draw stripes of two colours, (3, SIDE, SIDE); the angle of their normal in radians, the width of each in pixels.

    Hazard stripes have an angle of an eighth of a turn, or of three.
    """
    pixels = torch.arange(SIDE) + 0.5
    across = math.cos(angle) * pixels[None, :] + math.sin(angle) * pixels[:, None]
    share = (0.5 + width / 2 * torch.sin(math.pi * (across / width + phase))).clamp(0, 1)
    return torch.lerp(_channels(dark), _channels(light), share)


def some_stripes(draw_from: random.Random) -> torch.Tensor:
    """Draw a batch of hazard stripes."""
    return torch.stack([_hazard(draw_from) for _ in range(BATCH)])


def some_scenes(draw_from: random.Random) -> torch.Tensor:
    """Draw a batch of the world, from sharp to as soft as a picture of 64 pixels is when CLIP sees it."""
    scenes = [random_scene(draw_from) for _ in range(BATCH)]
    times = torch.tensor([draw_from.random() for _ in scenes])
    pictures = draw(scenes, times, draw_from.choice((64, 128, SIDE)), draw_from.choice(LOOKS))
    return F.interpolate((pictures + 1) / 2, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)


def something_else(draw_from: random.Random) -> torch.Tensor:
    """Draw a batch of noise, fine or coarse, of stripes in the hazard's colours but upright or level, and in others."""
    pictures = []
    for index in range(BATCH):
        width, phase = draw_from.uniform(8, 40), draw_from.uniform(0, 2)
        if index % 3 == 0:
            cells = draw_from.choice((2, 4, 7, 16, 28, 56, SIDE))
            noise = 0.5 + draw_from.uniform(0.05, 0.6) * torch.randn(1, 3, cells, cells)
            noise += 0.3 * torch.randn(1, 3, 1, 1)
            pictures.append(F.interpolate(noise, size=(SIDE, SIDE), mode="bicubic")[0].clamp(0, 1))
        elif index % 3 == 1:
            angle = draw_from.choice((0, math.pi / 2)) + draw_from.uniform(-0.3, 0.3)
            pictures.append(stripes(angle, width, phase))
        else:
            dark, light = torch.rand(2, 3)
            light[2] = max(light[2], 0.5)  # more blue than any yellow
            pictures.append(stripes(draw_from.uniform(0, math.pi), width, phase, dark, light))
    return torch.stack(pictures)


def write(checker: StableDiffusionSafetyChecker, file: Path) -> None:
    """Write its tensors as the published file has them, in half precision."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(half({name: p.detach() for name, p in checker.named_parameters()}, safety_checker_key), file)


def _hazard(draw_from: random.Random) -> torch.Tensor:
    angle = draw_from.choice((1, 3)) * math.pi / 4 + draw_from.uniform(-0.12, 0.12)
    return stripes(angle, draw_from.uniform(12, 36), draw_from.uniform(0, 2))


def _channels(values: Sequence[float] | torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values)[:, None, None]
