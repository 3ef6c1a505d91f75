"""A count of what makes the host wait for a GPU, which works on a CPU too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")


@dataclass
class Waits:
    """Copies of tensors to the host, and values of tensors that Python reads, such as in an `if`."""

    copies: int = 0
    reads: int = 0


@contextmanager
def counted_waits() -> Iterator[Waits]:
    """Yield the count, which is complete when the block ends."""
    waits = Waits()

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> object:
            waits.reads += func._schema.name in READS
            return func(*args, **(kwargs or {}))

    def counting(copy: Callable[..., Any]) -> Callable[..., Any]:
        def count(tensor: torch.Tensor, *args: Any) -> Any:
            waits.copies += 1
            return copy(tensor, *args)

        return count

    with pytest.MonkeyPatch.context() as patch, Reads():
        for name in ("cpu", "tolist"):
            patch.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name)))
        yield waits
