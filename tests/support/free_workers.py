"""How long predictions wait while a worker is free.

A worker is free from the moment that its address is in the name server, while no prediction is on it. A prediction
waits from its creation until it is first sent to a worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

Span = tuple[float, float]  # seconds since 1970


class Addresses(list[str]):
    """The addresses of a name, and when each came and went."""

    def __init__(self) -> None:
        super().__init__()
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    def append(self, address: str) -> None:
        super().append(address)
        self.began[address] = time.time()

    def remove(self, address: str) -> None:
        self.ended[address] = time.time()
        super().remove(address)


def without(span: Span, others: Iterable[Span]) -> Iterator[Span]:
    """Yield the parts of a span that are in no other one."""
    start, end = span
    for began, ended in sorted(others):
        if start < min(began, end):
            yield start, min(began, end)
        start = max(start, ended)
    if start < end:
        yield start, end


def waits(sent: list[tuple[float, str, str]], rows: list[Any], addresses: Addresses) -> list[float]:
    """Return the longest time that each prediction waited without a break while a worker was free.

    `sent` has the time, the prediction and the address of all that were sent.
    """
    last = time.time()
    begins: dict[str, list[tuple[float, str]]] = {}
    for moment, prediction_id, address in sorted(sent):
        begins.setdefault(prediction_id, []).append((moment, address))
    busy: dict[str, list[Span]] = {address: [] for address in addresses.began}
    for row in rows:
        ends = [*(moment for moment, _ in begins[row.id][1:]), row.completed_at / 1e6]
        for (moment, address), end in zip(begins[row.id], ends, strict=True):
            busy[address].append((moment, end))
    free = [
        span
        for address, began in addresses.began.items()
        for span in without((began, addresses.ended.get(address, last)), busy[address])
    ]
    longest = []
    for row in rows:
        waiting = (row.created_at / 1e6, begins[row.id][0][0])
        occupied = list(without(waiting, free))  # when no worker was free
        longest.append(max((end - start for start, end in without(waiting, occupied)), default=0.0))
    return longest
