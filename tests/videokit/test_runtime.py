"""The device's report, progress that clients can parse, stages, and out of memory."""

from __future__ import annotations

import gc
import logging
import re
import threading
import weakref
from pathlib import Path

import pytest
import torch
from videokit.errors import OutOfMemory
from videokit.runtime import Device, Stages, host_memory, out_of_memory, pick_device, progress

CPU = Device(torch.device("cpu"), torch.float32)


def test_the_choice_of_device_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="videokit"):
        device = pick_device()
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        assert device.dtype == torch.float16
    else:
        assert device == CPU
        assert re.fullmatch(r"device: cpu in float32 \(no GPU here, \d+ threads\), [\d.]+ GB", caplog.messages[0])


def test_progress_is_read_by_replicates_clients(capsys: pytest.CaptureFixture[str]) -> None:
    # the pattern of replicate-python@1.0.7 replicate/prediction.py, Prediction.Progress
    pattern = re.compile(r"^(?P<percentage>\d+)%\s*\|.+?\|\s*(?P<current>\d+)\/(?P<total>\d+)")
    assert list(progress(range(3), "denoise")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    matches = [pattern.match(line) for line in lines]
    assert all(matches)
    assert matches[0] and matches[0]["percentage"] == "0"
    assert matches[-1] and matches[-1].groupdict() == {"percentage": "100", "current": "3", "total": "3"}


def test_progress_starts_no_thread() -> None:
    before = threading.enumerate()
    assert list(progress(range(3), "denoise")) == [0, 1, 2]
    assert threading.enumerate() == before


def test_progress_that_is_cancelled_says_nothing_false(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        for item in progress(range(100), "denoise"):
            if item == 1:
                raise KeyboardInterrupt
    assert "100%" not in capsys.readouterr().err


def test_a_stage_is_one_line_with_numbers_and_its_seconds_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    stages = Stages(CPU)
    with caplog.at_level(logging.INFO, logger="videokit"):
        with stages("load", "a file"):
            pass
        with stages("load", "another"):
            pass
    assert list(stages.seconds) == ["load"]
    assert [re.fullmatch(r"load: (a file|another) in [\d.]+ s, [\d.]+ GB in use on cpu", m) for m in caplog.messages]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_frees_everything_and_says_what_to_lower(error: Exception) -> None:
    freed: list[bool] = []
    alive: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        activation = torch.zeros(10)
        alive.append(weakref.ref(activation))
        raise error

    with (
        pytest.raises(
            OutOfMemory, match=r"cpu ran out of memory, of which it has [\d.]+ GB; lower num_frames$"
        ) as raised,
        out_of_memory(CPU, "lower num_frames", lambda: freed.append(True)),
    ):
        work()
    gc.collect()
    assert freed == [True]
    assert alive[0]() is None  # although the error's traceback is still there
    assert raised.value.__cause__ is None


def test_the_real_cpu_allocator_is_understood() -> None:
    with pytest.raises(OutOfMemory), out_of_memory(CPU, "ask for less", lambda: None):
        torch.empty(2**50)


@pytest.mark.parametrize(
    "text",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "CUDA error: out of memory",  # as cudaHostAlloc, which pins memory, fails
    ],
)
def test_the_errors_of_cudas_libraries_are_understood(text: str) -> None:
    with pytest.raises(OutOfMemory), out_of_memory(CPU, "ask for less", lambda: None):
        raise RuntimeError(text)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes do not match"), NotImplementedError("no such kernel"), RecursionError("too deep")],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_pass_as_they_are(error: RuntimeError) -> None:
    with pytest.raises(type(error), match=str(error)), out_of_memory(CPU, "x", lambda: pytest.fail("freed")):
        raise error


@pytest.mark.parametrize(("told", "most"), [("1000000\n", 1000000), ("max\n", None)])
def test_a_containers_memory_is_what_it_may_use(told: str, most: int | None, tmp_path: Path) -> None:
    # "max" is no limit: docs.kernel.org, cgroup v2, memory.max
    (tmp_path / "memory.max").write_text(told)
    assert host_memory(tmp_path / "memory.max") == (most or host_memory(tmp_path / "nothing"))
