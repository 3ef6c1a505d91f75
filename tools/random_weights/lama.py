"""Random weights for LaMa, as a training checkpoint in the published layout: the generator and parts of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from zeroscope.lama import GENERATOR, PUBLISHED, Lama, Size

from random_weights.stable_diffusion import random_tensors

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {"small": Size(4, 1), "full": PUBLISHED}


def write(file: Path, size: str) -> None:
    """Write the checkpoint; 0.2 MB for `small`, 204 MB for `full`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    generator = {f"{GENERATOR}{key}": tensor for key, tensor in state(SIZES[size]).items()}
    discriminator = {"discriminator.model0.0.bias": torch.zeros(1)}  # one of many in the published file
    torch.save({"epoch": 0, "global_step": 0, "state_dict": generator | discriminator}, file)


def state(size: Size) -> dict[str, torch.Tensor]:
    """Return random parameters of the generator, and statistics of its norms that have no effect."""
    lama = Lama(size)
    return {**lama.state_dict(), **random_tensors(lama, "lama")}
