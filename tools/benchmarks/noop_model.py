"""A model that does nothing: the time of a prediction is that of Cog and of the predictions API."""

from cog import BaseRunner


class Predictor(BaseRunner):  # type: ignore[misc]  # cog has no types
    def run(self) -> str:
        return "hello"
