"""A model whose output is one file, like animate-diff."""

from __future__ import annotations

import tempfile
from pathlib import Path as LocalPath

from cog import BaseRunner, Input, Path


class Predictor(BaseRunner):
    def run(
        self,
        content: str = Input(description="the file's content", default="abc"),
        name: str = Input(description="the file's name", default="out.txt"),
        repeat: int = Input(description="how often the content is in it", default=1, ge=1, le=100000000),
    ) -> Path:
        path = LocalPath(tempfile.mkdtemp()) / name
        path.write_text(content * repeat)
        return Path(path)
