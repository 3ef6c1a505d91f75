"""Progress bars for logs: each update is a line that starts with a percentage, as Replicate's clients parse it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

INTERVAL = 0.5  # seconds between two lines
# tqdm's monitor thread is switched off: a cancel that is raised in a thread as it starts would wait for the thread.
tqdm.monitor_interval = 0


def progress(items: Sequence[T], description: str) -> Iterator[T]:
    """Yield the items, and print a progress bar to standard error as they are consumed."""
    bar = tqdm(
        total=len(items),
        desc=description,
        file=LineStream(),
        mininterval=INTERVAL,
        bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} {desc} [{elapsed}<{remaining}]",
        ascii=" #",
        leave=True,
    )
    with bar:
        for item in items:
            yield item
            bar.update()


class LineStream:
    """A stream for tqdm that writes every new update to standard error as a line of its own."""

    def __init__(self) -> None:
        self.last = ""

    def write(self, text: str) -> None:
        """Write an update as a line, unless it repeats the last one."""
        update = text.strip("\r\n ")
        if update not in ("", self.last):
            sys.stderr.write(update + "\n")
            self.last = update

    def flush(self) -> None:
        """Flush standard error."""
        sys.stderr.flush()
