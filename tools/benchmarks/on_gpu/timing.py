"""The device of a run, and seconds and bytes on it: by a clock and CUDA's counters."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import torch
from videokit.runtime import GB, Device, pick_device

from benchmarks.measure import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.on_gpu.subject import Figures

SMALL = "CPU, small shapes"  # the device of all rows without a GPU


def pick() -> tuple[Device, str]:
    """Return the GPU that CUDA offers, as in an image, otherwise the CPU in float32, and its name."""
    if torch.cuda.is_available():
        return pick_device(), torch.cuda.get_device_name()
    return Device(torch.device("cpu"), torch.float32), SMALL


def device_seconds(device: Device, work: Callable[[], object], runs: int) -> float:
    """Return the median time of several calls after one that is not counted, each until the device has finished."""

    def finish() -> None:
        work()
        device.synchronize()

    finish()
    return statistics.median(seconds(finish) for _ in range(runs))


def peak_gpu_memory(device: Device, work: Callable[[], object]) -> Figures:
    """Return the most bytes that a call allocates on the GPU in addition to those before it; nothing without a GPU."""
    if device.device.type != "cuda":
        return {}
    device.release()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return {"GB": (torch.cuda.max_memory_allocated() - before) / GB}


def matmul_peak(device: Device) -> float:
    """Return the floating-point operations a second of a large matrix product."""
    n = 16384 if device.device.type == "cuda" else 256
    a, b = (torch.randn(n, n, device=device.device, dtype=device.dtype) for _ in range(2))
    return 2 * n**3 / device_seconds(device, lambda: a @ b, runs=20)
