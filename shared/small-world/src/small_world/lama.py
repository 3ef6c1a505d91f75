"""LaMa for the world: it fills the band of a watermark from what is above and below it.

What it learns from are the world's pictures without any text: LaMa never sees what is masked.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import update_bn
from zeroscope.lama import Lama, Size
from zeroscope.watermark import band

from small_world.training import Plan, fit
from small_world.world import LOOKS, draw, random_scene

if TYPE_CHECKING:
    from pathlib import Path

SIZE = Size(8, 2)
PLAN = Plan(steps=6000, learning_rate=1e-3, warm_up=30, mean_over=50)
WHOLE = Plan(steps=4500, learning_rate=1.5e-3, warm_up=50, mean_over=100, seed=3)
SIDE = 256  # zeroscope's smallest
AROUND = 44  # rows above the band and below it that the network sees of a cut
WIDTH = 96  # columns of it
BATCH = 4
STATISTICS = 40  # batches that the norms' statistics are taken over
CROSSED = 0.75  # of the pictures: the band crosses the shape, which is what is hard
SQUARES = 4  # how much squared errors count against plain ones


class _Masked(torch.nn.Module):
    """LaMa of one argument, (B, 4, H, W): pictures and their masks, as PyTorch's update_bn calls it."""

    def __init__(self, lama: Lama) -> None:
        super().__init__()
        self.lama = lama

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        filled: torch.Tensor = self.lama(given[:, :3], given[:, 3:])
        return filled


def train(folder: Path, plan: Plan = PLAN, whole: Plan = WHOLE) -> Lama:
    """Train the generator by the error in the band alone: on cuts, then on whole pictures with its norms fixed.

    So it is used: a norm with its batch's statistics has none of a single picture, and what a layer sees in frequency
    depends on the picture's size.
    """
    torch.manual_seed(8)
    masked = _Masked(Lama(SIZE))

    def of_cuts(step: int, draw_from: random.Random) -> torch.Tensor:
        return _loss(masked, _cut(masked_pictures(draw_from), draw_from))

    def of_whole(step: int, draw_from: random.Random) -> torch.Tensor:
        return _loss(masked, masked_pictures(draw_from))

    fit("lama", masked.parameters(), plan, of_cuts, folder)
    draw_from = random.Random("statistics")
    update_bn((masked_pictures(draw_from) for _ in range(STATISTICS)), masked)
    masked.eval()
    fit("lama-whole", masked.parameters(), whole, of_whole, folder)
    return masked.lama.requires_grad_(False)


def masked_pictures(draw_from: random.Random) -> torch.Tensor:
    """Draw pictures in 0 to 1, each in any look, and the mask of their band: (BATCH, 4, SIDE, SIDE)."""
    mask = torch.zeros(1, 1, SIDE, SIDE)
    top, bottom = band(SIDE)
    mask[:, :, top:bottom] = 1
    drawn = []
    for _ in range(BATCH):
        look, crossed = draw_from.choice(("flat", "flat", *LOOKS)), draw_from.random() < CROSSED
        while True:
            picture = draw([random_scene(draw_from)], torch.tensor([draw_from.random()]), SIDE, look)
            rows = picture[:, :, top:bottom]
            if not crossed or bool((rows != rows[:, :, :1, :1]).any()):
                break
        drawn.append(torch.cat([(picture + 1) / 2, mask], dim=1))
    return torch.cat(drawn)


def _cut(given: torch.Tensor, draw_from: random.Random) -> torch.Tensor:
    """Cut what is about the band out of pictures and masks."""
    top, bottom = band(SIDE)
    left = draw_from.randint(0, SIDE - WIDTH)
    return given[:, :, top - AROUND : bottom + AROUND, left : left + WIDTH]


def _loss(masked: _Masked, given: torch.Tensor) -> torch.Tensor:
    pictures, mask = given[:, :3], given[:, 3:]
    error = (masked(given) - pictures)[mask.expand_as(pictures) > 0]
    loss: torch.Tensor = error.abs().mean() + SQUARES * error.square().mean()
    return loss


def write(lama: Lama, file: Path) -> None:
    """Write the generator alone, in half precision, as safetensors, which may stand for the published pickle."""
    state = {key: t.half() if t.is_floating_point() else t for key, t in lama.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
