"""How every benchmark measures: ours and the plain way alternately, so that a busy machine slows both."""

from __future__ import annotations

import importlib
import os
import platform
import re
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable


def machine_line() -> str:
    """Return what the figures depend on: processor, cores, Python, torch."""
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
    """Return this process's peak resident memory in bytes, VmHWM of proc(5).

    ru_maxrss of getrusage(2) includes the peak of the parent process.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise OSError("/proc/self/status has no VmHWM; peak memory is measured on Linux only")
    return 1024 * int(found[1])


def paired(ours: Callable[[], object], plain: Callable[[], object], runs: int = 5) -> tuple[float, float, float]:
    """Time both alternately after one warm-up each.

    Returns the median seconds of ours and of plain, and the median of the pairs' plain / ours: above 1, ours is faster.
    """
    ours(), plain()
    pairs = [(seconds(ours), seconds(plain)) for _ in range(runs)]
    ours_median, plain_median = (statistics.median(times) for times in zip(*pairs, strict=True))
    return ours_median, plain_median, statistics.median(b / a for a, b in pairs)


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def demo_predictor(model: str) -> Any:
    """Return the Predictor of a model's predict.py, set up with the demo weights."""
    sys.path.insert(0, str(ROOT / model))
    os.environ["WEIGHTS"] = "demo"
    predictor = importlib.import_module("predict").Predictor()
    predictor.setup()
    return predictor
