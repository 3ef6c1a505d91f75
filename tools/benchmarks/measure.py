"""How every benchmark measures: ours and the plain way alternately, so that a busy machine slows both."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def machine_line() -> str:
    """Return what the figures depend on: processor, cores, Python, torch."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    processor = next(iter(names), platform.processor() or platform.machine())
    python, torch = platform.python_version(), metadata.version("torch")
    return f"machine: {processor}, {os.cpu_count()} cores, Python {python}, torch {torch}"


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the peak resident bytes of this process plus those of its largest child.

    They are VmHWM of proc(5), because ru_maxrss of getrusage(2) includes the peak of the parent process. Children such
    as ffmpeg end within the block, so a thread reads their peaks every 2 ms.
    """
    end, child = threading.Event(), 0

    def watch() -> None:
        nonlocal child
        while not end.wait(0.002):
            for listed in Path("/proc/self/task").glob("*/children"):
                with suppress(OSError):  # a thread or child that has just ended
                    child = max([child, *map(_peak_resident, listed.read_text().split())])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: _peak_resident("self") + child
    finally:
        end.set()
        thread.join()


def _peak_resident(process: str) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return 1024 * int(found[1]) if found else 0  # 0: an ended process


def in_new_process(function: Callable[..., None], *arguments: object) -> list[float]:
    """Call a module's function with texts in a new process, and return the numbers that it prints."""
    code = "import importlib, sys; getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*sys.argv[3:])"
    command = [sys.executable, "-P", "-c", code, function.__module__, function.__name__, *map(str, arguments)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(number) for number in output.split()]


def processor_seconds() -> float:
    """Return the processor time of this process and its ended children."""
    return sum(os.times()[:4])


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


def spread(times: list[float]) -> str:
    """Return p50 and p99 in milliseconds."""
    p99 = sorted(times)[len(times) * 99 // 100]
    return f"p50 {statistics.median(times) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms"


def demo_predictor(model: str) -> Any:
    """Return the Predictor of a model's predict.py, set up with the demo weights."""
    sys.path.insert(0, str(ROOT / model))
    os.environ["WEIGHTS"] = "demo"
    predictor = importlib.import_module("predict").Predictor()
    predictor.setup()
    logging.getLogger("videokit").setLevel(logging.WARNING)
    return predictor
