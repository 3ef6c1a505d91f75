"""A model whose output is one text, and whose inputs control how long it runs and how it ends."""

# ruff: noqa: B008, PTH110, PTH123, UP045 - Cog reads these declarations only, and imports stay few

from __future__ import annotations

import os
import sys
import time
from typing import Optional

from cog import BaseRunner, Input, Path


def is_held(path: Optional[str]) -> bool:
    return bool(path) and not os.path.exists(path)


def show_progress(step: int, steps: int) -> None:
    percent = 100 * step // steps
    sys.stderr.write(f"\r{percent:3d}%|{'#' * (percent // 10):10s}| {step}/{steps}")
    sys.stderr.flush()


class Predictor(BaseRunner):
    def run(
        self,
        text: str = Input(description="what comes back", default="hello"),
        sleep: float = Input(description="seconds before the end", default=0, ge=0, le=600),
        steps: int = Input(description="updates of a progress bar in that time", default=0, ge=0, le=1000),
        end: str = Input(description="how it ends", choices=["well", "fail", "crash"], default="well"),
        file: Optional[Path] = Input(description="a file, whose text comes back instead"),
        mark: Optional[str] = Input(description="a local file that gets one line for each run"),
        hold: Optional[str] = Input(description="a local file to wait for before the last step, or before the end"),
    ) -> str:
        if mark:
            with open(mark, "a") as runs:
                runs.write(f"{text}\n")
        print(f"text: {text}")
        for step in range(steps):
            while step == steps - 1 and is_held(hold):
                show_progress(step, steps)  # again, as Cog reports logs when there is another line
                time.sleep(0.1)
            show_progress(step + 1, steps)
            time.sleep(sleep / steps)
        deadline = time.monotonic() + (0 if steps else sleep)
        while time.monotonic() < deadline:  # Cog cancels between two Python instructions, not within time.sleep
            time.sleep(0.02)
        while is_held(hold):
            time.sleep(0.02)
        if end == "fail":
            raise ValueError("failed on request")
        if end == "crash":
            os.kill(os.getppid(), 9)  # Cog's server, the parent of this worker
            os._exit(1)
        return file.read_text() if file else text
