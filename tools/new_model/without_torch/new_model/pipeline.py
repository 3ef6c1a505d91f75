"""From inputs to frames: a network with random weights maps a point and a time to a colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from new_model.inputs import FPS, Inputs
from videokit.progress import progress
from videokit.runtime import Processor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videokit.video.frames import Frame

SIDE = 128  # of a picture, in pixels
CHANNELS = 16


class Pipeline:
    """The network and its device."""

    def __init__(self) -> None:
        self.device = Processor()

    def generate(self, inputs: Inputs, seed: int) -> Iterator[Frame]:
        """Return the frames of a clip, (SIDE, SIDE, 3) uint8 each, which are computed as they are consumed."""
        weights = np.random.default_rng(seed).standard_normal((CHANNELS, 6))  # of both layers
        axis = np.linspace(-1, 1, SIDE)
        y, x = np.meshgrid(axis, axis, indexing="ij")
        for index in progress(range(inputs.num_frames), "draw"):
            points = np.stack([x, y, np.full_like(x, index / FPS)])  # (3, H, W)
            hidden = np.tanh(np.einsum("np,phw->nhw", weights[:, :3], points))
            colours = np.tanh(np.einsum("nc,nhw->hwc", weights[:, 3:], hidden))
            yield ((colours + 1) * 127.5).round().astype(np.uint8)
