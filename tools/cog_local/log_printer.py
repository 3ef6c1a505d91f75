"""The model's log on stderr, with progress bars."""

from __future__ import annotations

import re
import shutil
import sys

_PROGRESS = re.compile(r"^\s*(\d+)%\s*\|.*?\|\s*(\d+)/(\d+)")  # a tqdm bar, as Replicate's clients parse it


class LogPrinter:
    """Writes a model's lines to stderr. Progress bars redraw their line on a terminal, and are thinned elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._in_bar = False  # on a terminal: the cursor is in the line of a bar
        self._quarter: tuple[str, int] | None = None  # elsewhere: total and quarter of the last bar that was written

    def __call__(self, line: str) -> None:
        progress = _PROGRESS.match(line)
        if progress is None:
            self.end_bar()
            self._write(f"{line}\n")
        elif self._terminal:
            self._in_bar = True
            self._write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        else:
            percent, _, total = progress.groups()
            if (quarter := (total, int(percent) // 25)) != self._quarter:
                self._quarter = quarter
                self._write(f"{line}\n")

    def end_bar(self) -> None:
        """End the line of a progress bar."""
        if self._in_bar:
            self._in_bar = False
            self._write("\n")

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:  # a closed stderr does not end the prediction
            pass
