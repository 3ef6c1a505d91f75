"""Measures on a GPU: time, share of its peak, memory, variants, and correct clips.

    script/bench gpu [--model MODEL] [--out DIR] [--compare FILE] [--minutes 9]

Each model takes at most --minutes, and 20 GB of disk for random weights of full size. Rows are appended to
DIR/rows.jsonl and written to DIR/table.md at once, so that an interrupted run keeps them. FILE is the rows.jsonl of an
earlier run. Without a GPU the same code runs small shapes on the CPU, and every row says so.

It takes about 2 minutes on two idle cores.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tree import script_parser

from benchmarks.on_gpu import networks, predictions, robustness, variants
from benchmarks.on_gpu.models import MODELS
from benchmarks.on_gpu.table import Rows
from benchmarks.on_gpu.timing import matmul_peak, pick

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.on_gpu.subject import Subject

# the most important ones first, because time may end
MEASUREMENTS = (
    networks.speed,
    predictions.stages,
    predictions.against_diffusers,
    predictions.synchronisations,
    predictions.switches,
    predictions.copies,
    predictions.cold_start,
    robustness.finite,
    robustness.sizes,
    variants.compare,
    robustness.exhaustion,
    robustness.cancels,
    robustness.memory,
)


class OutOfTime(BaseException):
    """Raised by a signal wherever the program is."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after some seconds, and again every second, as Python drops it in a destructor."""

    def stop(*_: object) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def measure(subject: Subject, rows: Rows) -> int:
    """Add the rows of all measurements, and return how many failed."""
    failures = 0
    for measurement in MEASUREMENTS:
        try:
            for what, figures in measurement(subject):
                rows.add(subject.name, what, figures)
        except Exception as error:
            traceback.print_exc()
            rows.add(subject.name, measurement.__name__, {"FAILED": repr(error)})
            failures += 1
    return failures


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"))
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--minutes", type=float, default=9)
    arguments = parser.parse_args()
    path = arguments.out / "rows.jsonl"
    (device, name), failures = pick(), 0
    software = f"torch {torch.__version__}, {str(device.dtype).removeprefix('torch.')}"
    try:
        rows = Rows(path, {"device": name, "software": software}, arguments.compare)
    except FileExistsError:
        parser.error(f"{path} has the rows of an earlier run; give another --out")
    peak = matmul_peak(device)
    rows.add("all", "a large matrix product", {"TFLOP/s": peak / 1e12})
    for model in arguments.model or MODELS:
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(temporary, "inductor"))  # empty at first
            try:
                with time_limit(60 * arguments.minutes):
                    failures += measure(MODELS[model](device, Path(temporary, "weights"), peak), rows)
            except OutOfTime:
                rows.add(model, "the rest", {"not measured": f"{arguments.minutes:g} minutes were over"})
        device.release()
    print(rows.table.read_text())
    sys.exit(failures > 0)
