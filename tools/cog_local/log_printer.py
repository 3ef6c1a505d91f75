"""The model's log: what it is doing as the moving line of a terminal, and the lines that a user can act on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from terminal import is_terminal

if TYPE_CHECKING:
    from terminal import MovingLine

_PROGRESS = re.compile(r"^\s*\d+%\s*\|.*?\|\s*(\d+)/(\d+)")  # a tqdm bar, as Replicate's clients parse it
_SEVERE = re.compile(r"(warning|error|critical): ")  # the levels with which videokit's lines start


class LogPrinter:
    """Shows each line of a model's log: as a line if it is a warning or if `verbose`, and what it says of progress."""

    def __init__(self, line: MovingLine, *, verbose: bool = False) -> None:
        self._line = line
        self._verbose = verbose

    def __call__(self, text: str) -> None:
        progress = _PROGRESS.match(text)
        if progress is not None:
            self._line.text = "encoding" if progress[1] == progress[2] else text.strip()
        elif self._line.text.startswith("starting"):
            self._line.text = "loading"
        shown = progress is not None and is_terminal()
        if _SEVERE.match(text) or (self._verbose and not shown):
            self._line.print(text)
