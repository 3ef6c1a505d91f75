"""The device that a model runs on, its memory, out-of-memory errors, logging, and the time of each stage."""

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
from typing import TYPE_CHECKING

from videokit.checks import check_choice
from videokit.errors import OutOfMemory, raise_faults
from videokit.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from videokit.weights.inversion_file import TextualInversion

logger = logging.getLogger("videokit")

GB = 1e9
PRECISIONS = ("float32", "float16", "bfloat16")  # names of torch's types
OUT_OF_MEMORY_TEXT = re.compile("can't allocate memory|out of memory|ALLOC_FAILED")


class Processor:
    """The processor and the memory of this machine, on which a model without torch runs."""

    def __str__(self) -> str:
        return "cpu"

    def memory_used(self) -> int:
        """Return the bytes in use: allocated on a GPU, resident in this process otherwise."""
        statm = Path("/proc/self/statm")
        if statm.exists():
            return int(statm.read_text().split()[1]) * resource.getpagesize()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def memory_total(self) -> int:
        """Return the bytes of the device's whole memory."""
        return host_memory()

    def release(self) -> None:
        """Return unused cached memory to the device."""
        gc.collect()

    def synchronize(self) -> None:
        """Wait until the device has done all work."""


@dataclass(frozen=True)
class Device(Processor):
    """The device of torch and the precision that a model runs in."""

    device: torch.device
    dtype: torch.dtype

    def __str__(self) -> str:
        return str(self.device)

    def memory_used(self) -> int:
        import torch

        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else super().memory_used()

    def memory_total(self) -> int:
        import torch

        if self.device.type != "cuda":
            return super().memory_total()
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    def release(self) -> None:
        import torch

        super().release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def synchronize(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def host_memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the bytes of this machine's memory, or of the container's if `limit`, cgroup v2's file, states less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = limit.read_text().strip() if limit.exists() else ""
    return min(memory, int(text)) if text.isdigit() else memory


def pick_device() -> Device:
    """Return CUDA, Apple's MPS or the CPU, in this order, and log the reason.

    The precision is that of the environment's PRECISION, otherwise float16 on GPUs and float32 on a CPU. Raises
    InvalidInput for a PRECISION that is not one of PRECISIONS.
    """
    import torch

    requested = os.environ.get("PRECISION") or None
    raise_faults(None if requested is None else check_choice("PRECISION", requested, PRECISIONS))
    if torch.cuda.is_available():
        # The same seed must give the same file, so cuDNN may not choose its algorithm by timing.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        device = Device(torch.device("cuda"), torch.float16)
        reason = torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        device = Device(torch.device("mps"), torch.float16)
        reason = "Apple's GPU, no CUDA"
    else:
        device = Device(torch.device("cpu"), torch.float32)
        reason = f"no GPU, {counted(torch.get_num_threads(), 'thread')}"
    if requested is not None:
        device = Device(device.device, getattr(torch, requested))
    precision = str(device.dtype).removeprefix("torch.")
    logger.info("device: %s in %s (%s), %.1f GB", device.device, precision, reason, device.memory_total() / GB)
    return device


def log_to_stdout() -> None:
    """Print videokit's log lines to standard output, which Cog records as the logs of set-up and predictions.

    A warning, on which the user can act, starts with its level.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_LevelFormatter())
    logging.basicConfig(handlers=[handler])
    logger.setLevel(logging.INFO)


class _LevelFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return level + super().format(record)


@contextmanager
def out_of_memory(device: Processor, advice: str, unload: Callable[[], None]) -> Iterator[None]:
    """Raise OutOfMemory with `advice` (what to lower) in place of the device's out-of-memory error.

    `unload` is called first. It drops what the model can load again, so that the next prediction has memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch, the CPU's allocator and CUDA's libraries raise a RuntimeError that only its text identifies.
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY_TEXT.search(str(error)):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step that failed
        unload()
        device.release()
        total = f"{device.memory_total() / GB:.1f} GB"
        raise OutOfMemory(f"{device} ran out of memory (it has {total}); {advice}") from None


@dataclass
class Stages:
    """What one prediction has done: the seconds of each stage, by name, and the textual inversions that it read.

    Each stage logs one line when it ends.
    """

    device: Processor
    seconds: dict[str, float] = field(default_factory=dict)
    textual_inversions: list[TextualInversion] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str, description: str) -> Iterator[None]:
        """Time the block as stage `name`; `description` goes into the log line."""
        start = time.perf_counter()
        yield
        self.device.synchronize()
        elapsed = time.perf_counter() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + elapsed, 3)
        used = self.device.memory_used() / GB
        logger.info("%s: %s in %.1f s, %.2f GB in use on %s", name, description, elapsed, used, self.device)
