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
SIDE = 256  # zeroscope's smallest
AROUND = 44  # rows above the band and below it that the network sees
WIDTH = 96  # columns that it sees
BATCH = 4
STATISTICS = 40  # batches that the norms' statistics are taken over


class _Masked(torch.nn.Module):
    """LaMa of one argument, (B, 4, H, W): pictures and their masks, as PyTorch's update_bn calls it."""

    def __init__(self, lama: Lama) -> None:
        super().__init__()
        self.lama = lama

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        filled: torch.Tensor = self.lama(given[:, :3], given[:, 3:])
        return filled


def train(folder: Path, plan: Plan = PLAN) -> Lama:
    """Train the generator by the error in the band alone, then take its norms' statistics for the weights kept."""
    torch.manual_seed(8)
    masked = _Masked(Lama(SIZE))

    def loss_at(step: int, draw_from: random.Random) -> torch.Tensor:
        given = masked_pictures(draw_from)
        error: torch.Tensor = (masked(given) - given[:, :3])[:, :, AROUND:-AROUND]
        return error.abs().mean() + error.square().mean()

    fit("lama", masked.parameters(), plan, loss_at, folder)
    draw_from = random.Random("statistics")
    update_bn((masked_pictures(draw_from) for _ in range(STATISTICS)), masked)
    return masked.lama.eval().requires_grad_(False)


def masked_pictures(draw_from: random.Random) -> torch.Tensor:
    """Draw the middle of pictures in 0 to 1 and the mask of their band, (BATCH, 4, H, WIDTH)."""
    scenes = [random_scene(draw_from) for _ in range(BATCH)]
    times = torch.tensor([draw_from.random() for _ in scenes])
    pictures = (draw(scenes, times, SIDE, draw_from.choice(("flat", "flat", *LOOKS))) + 1) / 2
    left = draw_from.randint(0, SIDE - WIDTH)
    mask = torch.zeros(BATCH, 1, SIDE, SIDE)
    top, bottom = band(SIDE)
    mask[:, :, top:bottom] = 1
    return torch.cat([pictures, mask], dim=1)[:, :, top - AROUND : bottom + AROUND, left : left + WIDTH]


def write(lama: Lama, file: Path) -> None:
    """Write the generator alone, in half precision, as safetensors, which may stand for the published pickle."""
    state = {key: t.half() if t.is_floating_point() else t for key, t in lama.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
