"""The device, stages, and out-of-memory errors."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from videokit.errors import InvalidInput, OutOfMemory
from videokit.runtime import Device, Stages, host_memory, out_of_memory, pick_device

CPU = Device(torch.device("cpu"), torch.float32)


def test_the_choice_of_device_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="videokit"):
        device = pick_device()
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        assert device.dtype == torch.float16
    else:
        assert device == CPU
        assert re.fullmatch(r"device: cpu in float32 \(no GPU, (1 thread|\d+ threads)\), [\d.]+ GB", caplog.messages[0])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)]
)
def test_the_environment_chooses_the_precision(
    precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PRECISION", precision)
    with caplog.at_level(logging.INFO, logger="videokit"):
        assert pick_device().dtype == dtype
    assert f" in {precision} (" in caplog.messages[0]


def test_an_unknown_precision_is_an_error_that_names_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECISION", "fp8")
    with pytest.raises(InvalidInput, match="PRECISION=fp8 is unknown; choose one of float32, float16, bfloat16"):
        pick_device()


def test_a_stage_logs_one_line_and_adds_up_its_seconds(caplog: pytest.LogCaptureFixture) -> None:
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
def test_out_of_memory_frees_the_tensors_and_says_what_to_lower(error: Exception) -> None:
    unloads: list[bool] = []
    references: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        activation = torch.zeros(10)
        references.append(weakref.ref(activation))
        raise error

    with (
        pytest.raises(OutOfMemory, match=r"cpu ran out of memory \(it has [\d.]+ GB\); lower num_frames$") as raised,
        out_of_memory(CPU, "lower num_frames", lambda: unloads.append(True)),
    ):
        work()
    gc.collect()
    assert unloads == [True]
    assert references[0]() is None  # although the error still has its traceback
    assert raised.value.__cause__ is None


def test_an_error_of_the_cpu_allocator_is_out_of_memory() -> None:
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
def test_an_allocation_error_of_cudas_libraries_is_out_of_memory(text: str) -> None:
    with pytest.raises(OutOfMemory), out_of_memory(CPU, "ask for less", lambda: None):
        raise RuntimeError(text)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes do not match"), NotImplementedError("missing kernel"), RecursionError("too deep")],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_changed(error: RuntimeError) -> None:
    with pytest.raises(type(error), match=str(error)), out_of_memory(CPU, "x", lambda: pytest.fail("unloaded")):
        raise error


@pytest.mark.parametrize(("text", "limit"), [("1000000\n", 1000000), ("max\n", None)])
def test_a_containers_memory_is_its_limit(text: str, limit: int | None, tmp_path: Path) -> None:
    # "max" means unlimited: docs.kernel.org, cgroup v2, memory.max
    (tmp_path / "memory.max").write_text(text)
    assert host_memory(tmp_path / "memory.max") == (limit or host_memory(tmp_path / "missing"))


def test_a_warning_in_the_log_starts_with_its_level() -> None:
    script = (
        "from videokit.runtime import log_to_stdout, logger; log_to_stdout(); logger.info('a'); logger.warning('b')"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        == "a\nwarning: b\n"
    )
