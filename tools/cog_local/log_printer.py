"""The model's log: what it is doing as the moving line of a terminal, and the lines that a user can act on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from terminal import colour, is_terminal

if TYPE_CHECKING:
    from terminal import MovingLine

_BAR = re.compile(r"\d+%\s*\|")  # of tqdm
_STEPS = re.compile(r"^\s*\d+%\s*\|.*?\|\s*(\d+)/(\d+)")  # a bar of denoising steps, as Replicate's clients parse it
# the levels with which videokit's lines start, and the announcement of a download
_SEVERE = re.compile(r"(warning|error|critical): |weights: fetching ")


class LogPrinter:
    """Takes each line of a model's log. Bars move the line; warnings are printed, and the rest too if `verbose`."""

    def __init__(self, line: MovingLine, *, verbose: bool = False) -> None:
        self._line = line
        self._verbose = verbose
        self._stage = "loading"

    def __call__(self, text: str) -> None:
        bar = _BAR.search(text)
        steps = _STEPS.match(text)
        if steps is not None:
            self._stage = "encoding"  # what follows the steps
        done = steps is not None and steps[1] == steps[2]
        self._line.text = self._stage if bar is None or done else text.strip()
        if _SEVERE.match(text):
            self._line.print(colour(text, "yellow"))
        elif self._verbose and not (bar and is_terminal()):
            self._line.print(text)
