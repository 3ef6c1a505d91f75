"""What must hold on a GPU: finite pictures, the limits of memory, and right predictions after faults."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from videokit.errors import InvalidInput, NotFinite, OutOfMemory
from videokit.runtime import GB, out_of_memory

from benchmarks.measure import seconds
from benchmarks.on_gpu.predictions import NEEDS_CUDA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.on_gpu.subject import Row, Subject

SHORT = {"num_inference_steps": 3}


class Cancelled(BaseException):
    """Raised by a signal, as Cog's cancel is."""


def finite(subject: Subject) -> Iterator[Row]:
    """Yield in how many predictions a value is not finite: each choice of weights, with little and much guidance."""
    for scale in (1, 7.5, subject.largest_guidance):
        cases, failed = subject.combinations()[: 1 if subject.small else None], 0
        for case in cases:
            try:
                subject.clip(**{**vars(case), **SHORT, "guidance_scale": scale})
            except NotFinite:
                failed += 1
        yield f"finite pictures, guidance {scale}", {"combinations": len(cases), "NOT finite": failed}


def sizes(subject: Subject) -> Iterator[Row]:
    """Yield whether zeroscope's largest videos run, and whether those above are refused."""
    if not hasattr(subject.pipeline, "max_frames"):
        return
    if subject.small:
        yield "the largest videos", NEEDS_CUDA
        return
    subject.clip(num_inference_steps=1, width=2048, height=1152, num_frames=2)
    yield "2048x1152, more than 65,535 sequences of frames", {"runs": True}
    most = subject.pipeline.max_frames(subject.inputs)
    try:
        replace(subject.inputs, num_frames=most + 1).check(subject.pipeline.max_frames)
        refused = False
    except InvalidInput:
        refused = True
    subject.clip(num_inference_steps=1, num_frames=most)
    yield "the most frames that check() allows", {"frames": most, "fits": True, "one more is refused": refused}


def exhaustion(subject: Subject) -> Iterator[Row]:
    """Yield what happens when the device has no memory left, and whether the next clip is right."""
    if subject.small:
        yield "a device without memory", NEEDS_CUDA
        return
    expected, raised = subject.clip(**SHORT), False
    subject.device.release()
    rest = torch.empty(torch.cuda.mem_get_info()[0] - 2**28, dtype=torch.uint8, device=subject.device.device)
    try:
        with out_of_memory(subject.device, "", getattr(subject.pipeline, "unload", lambda: None)):
            subject.clip(**SHORT)
    except OutOfMemory:
        raised = True
    del rest
    subject.device.release()
    right = np.array_equal(subject.clip(**SHORT), expected)
    yield "a device without memory", {"OutOfMemory": raised, "the next clip is right": right}


def cancels(subject: Subject) -> Iterator[Row]:
    """Yield whether clips are right after cancels at evenly spaced moments."""

    def cancel(*_: object) -> None:
        raise Cancelled

    signal.signal(signal.SIGUSR1, cancel)
    expected = subject.clip(**SHORT)
    duration, moments, cancelled, right = seconds(lambda: subject.clip(**SHORT)), 1 if subject.small else 20, 0, 0
    for index in range(moments):
        timer = threading.Timer(duration * (index + 0.5) / moments, os.kill, (os.getpid(), signal.SIGUSR1))
        try:
            timer.start()
            subject.clip(**SHORT)
            timer.join()
        except Cancelled:
            cancelled += 1
        right += np.array_equal(subject.clip(**SHORT), expected)
    yield "cancels", {"cancels": cancelled, "right clips after them": right}


def memory(subject: Subject) -> Iterator[Row]:
    """Yield the memory in use after the second and the last of many predictions."""
    used = []
    for _ in range(2 if subject.small else 30):
        subject.clip(**SHORT)
        used.append(subject.device.memory_used() / GB)
    yield f"memory after {len(used)} predictions", {"GB": used[-1], "GB after the second": used[1]}
