"""Which processes are there: for tests that hold code to leave none behind."""

from __future__ import annotations

from pathlib import Path

import pytest


def processes_with(mark: str) -> list[int]:
    """Return the ids of this machine's processes whose environment has `mark`; skip where there is no /proc."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("no /proc on this machine to look for processes in")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue  # it has ended, or is another user's
    return found
