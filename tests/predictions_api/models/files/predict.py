"""A model whose output is an iterator of files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path as LocalPath

from cog import BaseRunner, Input, Path


class Predictor(BaseRunner):
    def run(
        self,
        count: int = Input(description="how many files come", default=3, ge=1, le=100),
        sleep: float = Input(description="seconds before each", default=0, ge=0, le=60),
    ) -> Iterator[Path]:
        directory = LocalPath(tempfile.mkdtemp())
        for number in range(count):
            time.sleep(sleep)
            path = directory / f"{number}.txt"
            path.write_text(f"file {number}")
            yield Path(path)
