"""Networks with a weight that is NaN or infinite, as in a damaged or badly merged checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def broken(parameter: torch.Tensor, value: float = torch.nan) -> Iterator[None]:
    """Set all of a parameter to `value`, and restore it at the end."""
    original = parameter.detach().clone()
    with torch.inference_mode():
        parameter.fill_(value)
    try:
        yield
    finally:
        with torch.inference_mode():
            parameter.copy_(original)
