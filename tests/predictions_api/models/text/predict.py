"""A model for the tests of the predictions API: it does what its inputs tell it to, without weights."""

# ruff: noqa: B008, PTH110, PTH123, UP045 - declarations as Cog reads them, and no import more than needed

from __future__ import annotations

import os
import sys
import time
from typing import Optional

from cog import BaseRunner, Input, Path


class Predictor(BaseRunner):
    def run(
        self,
        text: str = Input(description="what comes back", default="hello"),
        sleep: float = Input(description="seconds before the end", default=0, ge=0, le=600),
        steps: int = Input(description="updates of a progress bar in that time", default=0, ge=0, le=1000),
        end: str = Input(description="how it ends", choices=["well", "fail", "crash"], default="well"),
        file: Optional[Path] = Input(description="a file, whose text comes back instead"),
        mark: Optional[str] = Input(description="a local file that gets one line for each run"),
        hold: Optional[str] = Input(description="a local file to wait for before the end"),
    ) -> str:
        if mark:
            with open(mark, "a") as runs:
                runs.write(f"{text}\n")
        print(f"text: {text}")
        for step in range(steps):
            percent = 100 * (step + 1) // steps
            sys.stderr.write(f"\r{percent:3d}%|{'#' * (percent // 10):10s}| {step + 1}/{steps}")
            sys.stderr.flush()
            time.sleep(sleep / steps)
        until = time.monotonic() + (0 if steps else sleep)
        while time.monotonic() < until:  # Cog cancels between two steps of Python, not within one
            time.sleep(0.02)
        while hold and not os.path.exists(hold):
            time.sleep(0.02)
        if end == "fail":
            raise ValueError("told to fail")
        if end == "crash":
            os.kill(os.getppid(), 9)  # Cog's server, whose worker this is
            os._exit(1)
        return file.read_text() if file else text
