"""The memory of a GIF with ping-pong from frames to the file, without the networks and their libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sd_animation.ping_pong import ping_pong
from videokit.video.encode import encode_gif

from benchmarks.measure import peak_memory

RAMP = np.add.outer(np.arange(128), np.arange(128)).astype(np.uint8)
FRAME_AT = {
    "a moving ramp": lambda index: np.stack([np.roll(RAMP, step * index, axis=1) for step in (3, 5, 7)], 2),
    # the worst case: the palette's histogram has an entry for every distinct colour
    "noise": lambda index: np.random.default_rng(index).integers(0, 256, (128, 128, 3), np.uint8),
}


def print_peak(content: str, num_frames: str, directory: str) -> None:
    """Print the peak memory in bytes, with that of ffmpeg."""
    frames = map(FRAME_AT[content], range(int(num_frames)))
    with peak_memory() as peak:
        encode_gif(ping_pong(frames, Path(directory)), Path(directory) / "peak.gif", fps=20)
        print(peak())
