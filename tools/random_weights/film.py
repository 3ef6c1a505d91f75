"""Random weights for FILM that fade from one picture to the next, in the published file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from sd_animation.film import COLOURS, PUBLISHED, Film, Widths, film_keys

from random_weights.stable_diffusion import half, random_tensors, write_tensors

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Widths(4, (4, 4, 8, 8))
FULL = PUBLISHED
SIZES = {"small": SMALL, "full": FULL}


def write(file: Path, size: Widths) -> None:
    """Write FILM's 82 tensors in half precision; 0.3 MB for `SMALL`."""
    with torch.device("meta"):
        film = Film(size)
    tensors = random_tensors(film, "film")
    init_as_mean(tensors, size)
    write_tensors(file, half(tensors, film_keys))


def init_as_mean(tensors: dict[str, torch.Tensor], size: Widths) -> None:
    """Change random values so that the last three layers pass the mean of the two pictures, plus a little of the rest.

    Random values alone make every picture nearly black, and clips flicker.
    """
    mixer, last, output = (tensors[f"fuse.{layer}.weight"] for layer in ("convs.3.1.0", "convs.3.2.0", "output_conv"))
    second_picture = COLOURS + size.features(0)
    for layer in (mixer, last, output):
        layer[:COLOURS] *= 0.02
    for colour in range(COLOURS):
        mixer[colour, [colour, second_picture + colour], 1, 1] += 0.5
        last[colour, colour, 1, 1] += 1
        output[colour, colour] += 1
