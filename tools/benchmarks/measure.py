"""How every benchmark here measures: ours and the plain way by turns in one run, so that a busy machine slows both."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def machine_line() -> str:
    """Name what the figures depend on: processor, cores, Python, torch."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "none"
    return f"machine: {processor}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch}"


def peak_memory() -> int:
    """Return the most bytes that were resident in this process, proc(5)'s VmHWM.

    getrusage(2)'s ru_maxrss would be at least what the process that started this one held.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise OSError("/proc/self/status has no VmHWM; peak memory is measured on Linux only")
    return 1024 * int(found[1])


def paired(ours: Callable[[], object], plain: Callable[[], object], runs: int = 5) -> tuple[float, float, float]:
    """Time both by turns after one warm-up each.

    Returns the median seconds of ours and of plain, and the median of the pairs' plain / ours: above 1, ours is faster.
    """
    ours(), plain()
    pairs = [(_seconds(ours), _seconds(plain)) for _ in range(runs)]
    ours_median, plain_median = (statistics.median(times) for times in zip(*pairs, strict=True))
    return ours_median, plain_median, statistics.median(b / a for a, b in pairs)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
