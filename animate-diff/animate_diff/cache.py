"""A cache that is bounded in bytes and forgets what was used longest ago."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

V = TypeVar("V")


class ByteLRU:
    """Keep values whose sizes add up to at most `capacity` bytes.

    One that is larger alone is not kept, nor one of no bytes: it is only mapped to its file, cheap to make again, and
    to let go of it gives its pages back.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0  # bytes
        self._entries: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def get(self, key: Hashable, make: Callable[[], tuple[V, int]]) -> V:
        """Return the value for `key`; where it is not held, `make` gives it with its size in bytes."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return cast("V", self._entries[key][0])
        value, size = make()
        if 0 < size <= self.capacity:
            self._entries[key] = (value, size)
            self.held += size
            while self.held > self.capacity:
                _, (_, freed) = self._entries.popitem(last=False)
                self.held -= freed
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.held = 0
