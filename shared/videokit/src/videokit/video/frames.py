"""The one form in which pictures cross a module's border: an iterator of (H, W, 3) uint8 RGB arrays.

The only conversion from a network's float tensors is here, with the only rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from videokit.finite import copy_with_flags, require_finite

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from numpy.typing import NDArray

    Frame = NDArray[np.uint8]


def frames_from_tensor(images: torch.Tensor, stage: str = "decode", results: str = "the pictures") -> Frame:
    """Return pictures, (N, 3, H, W) floats in [-1, 1], as (N, H, W, 3) uint8, rounded to nearest.

    Raises NotFinite, which names the stage and the results, if a value is NaN or infinite.
    """
    frames, (finite,) = frames_with_flags(images, images)
    require_finite(finite, stage, results, images.dtype)
    return frames


def frames_with_flags(images: torch.Tensor, *checked: torch.Tensor) -> tuple[Frame, list[bool]]:
    """Return pictures as `frames_from_tensor` does, and whether each of the checked tensors is finite."""
    levels = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).byte()
    array, flags = copy_with_flags(levels, *checked)
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)), flags


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
