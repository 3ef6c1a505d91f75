"""The running processes, for tests that none is left behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest


def processes_with(mark: str) -> list[int]:
    """Return the ids of the processes with `mark` in their environment; skip the test without /proc."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("this machine has no /proc")
    ids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                ids.append(int(process.name))
        except OSError:
            continue  # it has ended, or belongs to another user
    return ids


def wait_until_ended(mark: str) -> None:
    """Wait until no process has `mark` in its environment.

    The wait is long, as Linux 6.18 with busy cores was seen to leave a new process without its first tick for 8 s.
    """
    deadline = time.monotonic() + 300
    while processes_with(mark):
        assert time.monotonic() < deadline
        time.sleep(0.05)
