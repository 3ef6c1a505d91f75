"""The benchmark for GPUs, on a CPU with small shapes, and its table."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.gpu import OutOfTime, time_limit
from benchmarks.on_gpu.networks import count_flops
from benchmarks.on_gpu.subject import Network
from benchmarks.on_gpu.table import Rows, markdown
from benchmarks.on_gpu.timing import SMALL
from torch import nn
from tree import ROOT

A100 = {"device": "NVIDIA A100", "software": "torch 2.11.0, float16"}


def test_without_a_gpu_every_row_says_so_and_nothing_fails(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "script" / "bench", "gpu", "--model", "animate-diff", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert all(row.startswith(f"| {SMALL} |") for row in rows)
    assert "There was no GPU" in table
    assert "1 cancels, 1 right clips after them" in table


def test_an_interrupted_run_keeps_its_rows(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl", A100)
    with pytest.raises(OutOfTime), time_limit(3600):
        rows.add("zeroscope", "UNet", {"ms": 200.0})
        signal.raise_signal(signal.SIGALRM)  # as after the hour
    assert "| NVIDIA A100 | zeroscope | UNet | 200 ms |" in (tmp_path / "table.md").read_text()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_time_limit_holds_although_python_drops_an_exception_in_a_destructor() -> None:
    class Slow:
        def __del__(self) -> None:
            time.sleep(0.5)

    with pytest.raises(OutOfTime), time_limit(0.1):
        Slow()
        time.sleep(60)


def test_the_rows_of_an_earlier_run_are_not_overwritten(tmp_path: Path) -> None:
    Rows(tmp_path / "rows.jsonl", A100).add("zeroscope", "UNet", {"ms": 200.0})
    command = [sys.executable, ROOT / "script" / "bench", "gpu", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "rows.jsonl has the rows of an earlier run; give another --out" in done.stderr
    assert "200" in (tmp_path / "rows.jsonl").read_text()


def test_the_table_has_ratios_to_an_earlier_run(tmp_path: Path) -> None:
    Rows(tmp_path / "old.jsonl", A100).add("zeroscope", "UNet", {"ms": 200.0})
    Rows(tmp_path / "new.jsonl", A100).add("zeroscope", "UNet", {"ms": 100.0, "GB": 3.0})
    row = "| NVIDIA A100 | zeroscope | UNet | 100 ms (0.50), 3 GB |\n"
    assert markdown(tmp_path / "new.jsonl", tmp_path / "old.jsonl").endswith(row)


def test_a_gpu_is_not_compared_with_a_cpu(tmp_path: Path) -> None:
    Rows(tmp_path / "cpu.jsonl", {"device": SMALL, "software": ""}).add("zeroscope", "UNet", {"ms": 100.0})
    with pytest.raises(ValueError, match="one of the two runs had no GPU"):  # at the first row, not after the run
        Rows(tmp_path / "new.jsonl", A100, tmp_path / "cpu.jsonl").add("zeroscope", "UNet", {"ms": 200.0})


def test_a_multiplication_with_its_addition_is_two_operations() -> None:
    network = Network("linear", lambda: nn.Linear(30, 50), lambda linear, rows: linear(rows), [(7, 30)])
    assert count_flops(network) == 2 * 7 * 30 * 50
