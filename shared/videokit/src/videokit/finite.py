"""Checks that a network's results are finite: neither NaN nor infinity.

A network with damaged weights, or one that overflows in float16, computes NaN. As bytes of a picture that would be
black, so it is an error. The flags are copied to the host together with the pictures: a copy of their own would make
the host wait for the device once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from videokit.errors import NotFinite

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def copy_with_flags(values: torch.Tensor, *checked: torch.Tensor) -> tuple[NDArray[np.uint8], list[bool]]:
    """Return uint8 values on the host, and whether each of the checked tensors is finite, in one copy."""
    import torch

    flags = torch.stack([tensor.isfinite().all() for tensor in checked]).to(torch.uint8)
    copied: NDArray[np.uint8] = torch.cat([values.flatten(), flags]).cpu().numpy()
    return copied[: values.numel()].reshape(tuple(values.shape)), [bool(flag) for flag in copied[values.numel() :]]


def require_finite(finite: bool, stage: str, results: str, dtype: torch.dtype) -> None:
    """Raise NotFinite unless `finite`: `results` of `stage` were computed in the precision `dtype`."""
    if finite:
        return
    precision = str(dtype).removeprefix("torch.")
    advice = "try other weights, such as another checkpoint"
    if precision != "float32":
        advice += ", or set PRECISION=float32"
    raise NotFinite(f"{stage}: {results} are not finite (NaN or infinity), computed in {precision}; {advice}")
