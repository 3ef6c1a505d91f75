"""The benchmark of a queue on PostgreSQL, with few predictions."""

from __future__ import annotations

import re
import subprocess
import sys

import postgres
from tree import ROOT


def test_the_table_has_a_row_for_each_number_of_predictions() -> None:
    postgres.program("postgres")
    bench = [sys.executable, ROOT / "script" / "bench"]
    command = [*bench, "api", "--postgres", "--rows", "5", "20", "--clients", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    times = r"p50 \d+\.\d ms, p99 \d+\.\d ms"
    for row, size in zip(rows[2:], (5, 20), strict=True):
        assert re.fullmatch(rf"\| {size} \| {size} \| \d+ \| \d+ \| {times} \| {times} \|", row)
