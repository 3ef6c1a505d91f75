"""The device a model runs on: which one and why, its memory and what happens when that runs out, and time per stage."""

from __future__ import annotations

import gc
import logging
import os
import re
import resource
import sys
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from tqdm import tqdm

from videokit.errors import OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
logger = logging.getLogger("videokit")

GB = 1e9
NO_MEMORY = re.compile("can't allocate memory|out of memory|ALLOC_FAILED")
PROGRESS_SECONDS = 0.5  # between two lines of a progress bar
tqdm.monitor_interval = 0  # no thread that watches bars: a cancel that strikes one as it starts would be waited for


@dataclass(frozen=True)
class Device:
    """Where a model runs, and in which precision."""

    device: torch.device
    dtype: torch.dtype

    def memory_used(self) -> int:
        """Return the bytes in use now: allocated on a GPU, resident of this process elsewhere."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        statm = Path("/proc/self/statm")
        if statm.exists():
            return int(statm.read_text().split()[1]) * resource.getpagesize()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def memory_total(self) -> int:
        """Return the bytes that the device has in all."""
        if self.device.type == "cuda":
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return host_memory()

    def release(self) -> None:
        """Give memory that nothing refers to any more back to the device."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()


def host_memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the bytes of this machine's memory, or of the container's where `limit`, cgroup v2's file, says less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    told = limit.read_text().strip() if limit.exists() else ""
    return min(memory, int(told)) if told.isdigit() else memory


def pick_device() -> Device:
    """Choose CUDA, Apple's MPS or the CPU, in this order, with float16 on GPUs and float32 on a CPU; log why."""
    if torch.cuda.is_available():
        # the same seed is promised to give the same file, so cuDNN may not choose its algorithm by timing
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        chosen = Device(torch.device("cuda"), torch.float16)
        why = torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        chosen = Device(torch.device("mps"), torch.float16)
        why = "no CUDA here, but Apple's GPU"
    else:
        chosen = Device(torch.device("cpu"), torch.float32)
        why = f"no GPU here, {torch.get_num_threads()} threads"
    precision = str(chosen.dtype).removeprefix("torch.")
    logger.info("device: %s in %s (%s), %.1f GB", chosen.device, precision, why, chosen.memory_total() / GB)
    return chosen


@contextmanager
def out_of_memory(device: Device, advice: str, free: Callable[[], None]) -> Iterator[None]:
    """Turn the device's out-of-memory error into OutOfMemory with `advice` (what to lower), after `free`.

    `free` drops what the model keeps and can make again; what stays is fit for the next prediction.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # the CPU's allocator, CUDA's libraries and the pinning of memory raise other errors, known by their texts
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not NO_MEMORY.search(str(error)):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step that failed
        free()
        device.release()
        total = f"{device.memory_total() / GB:.1f} GB"
        raise OutOfMemory(f"{device.device} ran out of memory, of which it has {total}; {advice}") from None


@dataclass
class Stages:
    """The seconds of each stage of one prediction, by name, each logged in one line when it ends."""

    device: Device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str, what: str) -> Iterator[None]:
        """Time the block as stage `name`; the log line says `what` was done."""
        begin = time.perf_counter()
        yield
        if self.device.device.type == "cuda":
            torch.cuda.synchronize(self.device.device)
        took = time.perf_counter() - begin
        self.seconds[name] = round(self.seconds.get(name, 0.0) + took, 3)
        used = self.device.memory_used() / GB
        logger.info("%s: %s in %.1f s, %.2f GB in use on %s", name, what, took, used, self.device.device)


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Pass items on and print a progress bar to standard error, each update on a line of its own.

    The line begins with the percentage: the form that Replicate's clients read progress from.
    """
    lines = tqdm(
        total=len(items),
        desc=what,
        file=_Lines(),
        mininterval=PROGRESS_SECONDS,
        bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} {desc} [{elapsed}<{remaining}]",
        ascii=" #",
        leave=True,
    )
    with lines:
        for item in items:
            yield item
            lines.update()


class _Lines:
    """A text stream for tqdm that ends every new update with a newline instead of returning to the line's start."""

    def __init__(self) -> None:
        self.last = ""

    def write(self, text: str) -> None:
        update = text.strip("\r\n ")
        if update not in ("", self.last):
            sys.stderr.write(update + "\n")
            self.last = update

    def flush(self) -> None:
        sys.stderr.flush()
