"""A program that runs in a terminal of its own, with the keys and the screen as pipes."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CTRL_C = b"\x03"
_SPAWN = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


class Terminal:
    """What is typed into a program and what it shows. `status` is 128 + signal for one that a signal has killed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.screen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def wait_for(self, text: str) -> None:
        """Wait until the program has shown a text."""
        assert self.process.stdout is not None
        while text not in self.screen:
            shown = os.read(self.process.stdout.fileno(), 4096)
            assert shown, f"{text!r} is not in {self.screen!r}"
            self.screen += self._decoder.decode(shown)

    def press(self, keys: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(keys)
        self.process.stdin.flush()

    def status(self) -> int:
        """Wait for the end of the program and return its exit status."""
        assert self.process.stdout is not None
        self.screen += self._decoder.decode(self.process.stdout.read())
        return self.process.wait() % 256

    def lines(self) -> list[str]:
        """Return the lines that have stayed on the screen."""
        return [line.rpartition("\x1b[K")[2].rpartition("\r")[2] for line in self.screen.split("\r\n")]


@contextmanager
def terminal(*command: str | Path, cwd: Path | None = None, **environ: str) -> Iterator[Terminal]:
    """Yield a running program. Its terminal is closed at the end."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", _SPAWN, *command],
        cwd=cwd,
        env={**os.environ, "TERM": "xterm", **environ},
        stdin=pipe,
        stdout=pipe,
        bufsize=0,
    ) as process:
        try:
            yield Terminal(process)
        finally:
            process.kill()
