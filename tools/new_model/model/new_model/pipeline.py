"""From inputs to frames: a network with random weights maps a point and a time to a colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from videokit.progress import progress
from videokit.runtime import pick_device
from videokit.seeds import noise
from videokit.video.frames import frames_from_tensor

from new_model.inputs import FPS, Inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videokit.video.frames import Frame

SIDE = 128  # of a picture, in pixels
CHANNELS = 16


class Pipeline:
    """The network and its device."""

    def __init__(self) -> None:
        self.device = pick_device()

    def generate(self, inputs: Inputs, seed: int) -> Iterator[Frame]:
        """Return the frames of a clip, (SIDE, SIDE, 3) uint8 each, which are computed as they are consumed."""
        weights = noise((CHANNELS, 6), seed).to(self.device.device)  # of both layers
        axis = torch.linspace(-1, 1, SIDE, device=self.device.device)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        for index in progress(range(inputs.num_frames), "draw"):
            points = torch.stack([x, y, torch.full_like(x, index / FPS)])  # (3, H, W)
            hidden = torch.tanh(torch.einsum("np,phw->nhw", weights[:, :3], points))
            colours = torch.tanh(torch.einsum("nc,nhw->chw", weights[:, 3:], hidden))
            yield from frames_from_tensor(colours[None])
