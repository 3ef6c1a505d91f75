"""The one form in which pictures cross a module's border: an iterator of (H, W, 3) uint8 RGB arrays.

The only conversion from a VAE's float tensors is here, with the only rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from numpy.typing import NDArray

    Frame = NDArray[np.uint8]


def frames_from_tensor(images: torch.Tensor) -> Frame:
    """Return a VAE's pictures, (N, 3, H, W) floats in [-1, 1], as (N, H, W, 3) uint8, rounded to nearest."""
    levels = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).byte()
    array: Frame = np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())
    return array


def check_frames(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield the frames; raise TypeError or ValueError for one that is not RGB uint8 or differs in size."""
    size: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
            kind = getattr(frame, "dtype", type(frame).__name__)
            raise TypeError(f"frame {index} is {kind}; frames are (H, W, 3) uint8 arrays")
        if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"frame {index} has shape {frame.shape}; frames are (H, W, 3), RGB")
        if size is not None and frame.shape != size:
            raise ValueError(f"frame {index} has shape {frame.shape}, those before it {size}; a clip has one size")
        size = frame.shape
        yield frame
