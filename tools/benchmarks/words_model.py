"""A model that streams text word by word."""

import time
from collections.abc import Iterator

from cog import BaseRunner, Input


class Predictor(BaseRunner):  # type: ignore[misc]  # cog has no types
    def run(
        self,
        count: int = Input(description="number of words", default=40, ge=1, le=1000),
        sleep: float = Input(description="seconds before each word", default=0.1, ge=0, le=60),
    ) -> Iterator[str]:
        for number in range(count):
            time.sleep(sleep)
            yield f"{number} "
