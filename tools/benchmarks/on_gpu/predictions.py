"""Whole predictions with the default inputs: stages, diffusers' own pipeline alternately, switches, a cold start."""

from __future__ import annotations

import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from videokit.runtime import GB

from benchmarks.measure import in_new_process, paired, seconds
from benchmarks.on_gpu.models import MODELS
from benchmarks.on_gpu.timing import device_seconds, peak_gpu_memory, pick

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.on_gpu.subject import Figures, Row, Subject

NEEDS_CUDA: Figures = {"not measured": "needs CUDA"}


def stages(subject: Subject) -> Iterator[Row]:
    """Yield a whole prediction by stages, and whether the next one writes the same file."""
    subject.predict()
    start = time.perf_counter()
    stages, first = subject.predict()
    total = time.perf_counter() - start
    parts: Figures = {f"s {name}": value for name, value in stages.seconds.items()}
    yield "a whole prediction", {"s": total, **parts, **peak_gpu_memory(subject.device, subject.predict)}
    yield "the next prediction", {"the same file": subject.predict()[1] == first}


def against_diffusers(subject: Subject) -> Iterator[Row]:
    """Yield the ratio of diffusers' pipeline, not compiled, to ours; frames without a file."""
    changes, by_diffusers = subject.by_diffusers()
    ours, diffusers, ratio = paired(lambda: subject.clip(**changes), by_diffusers, subject.runs)
    yield "diffusers' pipeline, alternately", {"s ours": ours, "s diffusers": diffusers, "times as long": ratio}


def synchronisations(subject: Subject) -> Iterator[Row]:
    """Yield how often the host waits for the device in the loop, which should be never."""
    waits = {steps: 0 if subject.small else _count_waits(subject, steps) for steps in (5, 10)}
    figures: Figures = {"in 5 steps": waits[5], "in each further step": (waits[10] - waits[5]) / 5}
    yield "the host waits for the device", NEEDS_CUDA if subject.small else figures


def _count_waits(subject: Subject, steps: int) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            subject.clip(num_inference_steps=steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def switches(subject: Subject) -> Iterator[Row]:
    """Yield the time to change to other weights, of a model that has several."""
    if "switch" not in vars(type(subject)):
        return
    subject.switch(1)

    def switch_twice() -> None:
        subject.switch(0)
        subject.switch(1)

    yield "a switch to other weights", {"s": device_seconds(subject.device, switch_twice, subject.runs) / 2}


def copies(subject: Subject) -> Iterator[Row]:
    """Yield the speed of a copy of the UNet's parameters to the device, from pageable and from pinned memory."""
    parameters, figures = list(subject.parts(subject.pipeline).unet.parameters()), {}
    for kind in () if subject.small else ("pageable", "pinned"):
        host = [p.cpu().pin_memory() if kind == "pinned" else p.cpu() for p in parameters]

        @torch.no_grad()
        def copy(host: list[torch.Tensor] = host) -> None:
            for parameter, source in zip(parameters, host, strict=True):
                parameter.copy_(source, non_blocking=True)

        size = sum(p.nbytes for p in parameters) / GB
        figures[f"GB/s from {kind} memory"] = size / device_seconds(subject.device, copy, subject.runs)
    yield "a copy of the UNet to the device", figures or NEEDS_CUDA


def cold_start(subject: Subject) -> Iterator[Row]:
    """Yield the time of a new process until its first clip, with its files in the page cache."""
    start = partial(in_new_process, make_clip, subject.name, subject.directory)
    yield "a new process until its first clip", {"s": seconds(start)}


def make_clip(model: str, directory: str) -> None:
    """Make a clip of a model with the weights in a directory."""
    MODELS[model](pick()[0], Path(directory)).clip()
