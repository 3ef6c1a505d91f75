"""A least-recently-used cache that is bounded in bytes, and the conversion of tensors that are cached."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    import torch

V = TypeVar("V")


class ByteLRU:
    """A cache of values whose sizes add up to at most `capacity` bytes.

    A value larger than `capacity` is not cached. A value of 0 bytes is only mapped to its file, so it is not cached
    either: it is cheap to load again, and dropping it frees its pages.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0  # bytes
        self._entries: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def get(self, key: Hashable, load: Callable[[], tuple[V, int]]) -> V:
        """Return the value for `key`; if it is not cached, `load` returns it with its size in bytes."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return cast("V", self._entries[key][0])
        value, size = load()
        if 0 < size <= self.capacity:
            self._entries[key] = (value, size)
            self.held += size
            while self.held > self.capacity:
                _, (_, freed) = self._entries.popitem(last=False)
                self.held -= freed
        return value

    def clear(self) -> None:
        """Remove all values."""
        self._entries.clear()
        self.held = 0


def convert_dtype(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], int]:
    """Return the tensors, those wider than `dtype` converted to it, and the bytes of memory of the converted ones.

    The other tensors stay mapped to their file.
    """
    result = {name: t.to(dtype) if t.itemsize > dtype.itemsize else t for name, t in tensors.items()}
    return result, sum(t.nbytes for name, t in result.items() if t is not tensors[name])
