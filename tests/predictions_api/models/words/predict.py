"""A model whose output is an iterator of text, like a language model."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cog import BaseRunner, Input


class Predictor(BaseRunner):
    def run(
        self,
        text: str = Input(description="its words come one by one", default="one two three"),
        sleep: float = Input(description="seconds before each", default=0, ge=0, le=60),
        fail: bool = Input(description="fail at the end", default=False),
    ) -> Iterator[str]:
        for word in text.split():
            time.sleep(sleep)
            print(f"word: {word}")
            yield f"{word} "
        if fail:
            raise ValueError("failed on request")
