"""The README and the examples of each model, from the files that its settings name.

An example is a prediction as JSON, `NAME.json`. Its files are in the same directory, and its input and output have
their names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from predictions_api.errors import Problem, not_found, unavailable
from predictions_api.store.file_urls import replace_strings
from predictions_api.strict_json import parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from predictions_api.settings import ModelSettings

LOG = logging.getLogger("predictions_api.examples")


class Examples:
    """The examples by model and by id. The files of a model are read when they are first needed."""

    def __init__(self, models: Sequence[ModelSettings]) -> None:
        self._models = models
        self._directories: dict[str, _Directory] = {}

    async def readme(self, model: ModelSettings) -> str:
        """Return a model's README. Raises Problem 404 if it has none, and 503 if it cannot be read."""
        if model.readme is None:
            raise not_found()
        try:
            return await asyncio.to_thread(model.readme.read_text, "utf-8")
        except (OSError, ValueError) as error:
            LOG.error("the README of %s cannot be read: %r", model.name, error)
            raise unavailable(f"The README of {model.name} cannot be read; see the server's log") from error

    async def list(self, model: ModelSettings, base: str) -> list[dict[str, Any]]:
        """Return a model's examples in the order of their names, with URLs below `base`.

        The version is the newest one. Raises Problem 503 if an example cannot be read.
        """
        urls = await self.file_urls(model, base)
        return [_body(example, model, urls, base) for example in (await self._directory(model)).examples]

    async def file_urls(self, model: ModelSettings, base: str) -> dict[str, str]:
        """Return the URLs of the files of a model's examples, by their names. Raises Problem 503."""
        files = (await self._directory(model)).files
        return {name: f"{base}/v1/models/{model.name}/examples/{quote(name)}" for name in files}

    async def find(self, prediction_id: str, base: str) -> dict[str, Any]:
        """Return the example with an id, as `list` does. Raises Problem 404 if no model has it."""
        for model in self._models:
            with contextlib.suppress(Problem):  # an example that cannot be read is in the log
                for example in await self.list(model, base):
                    if example["id"] == prediction_id:
                        return example
        raise not_found()

    async def file(self, model: ModelSettings, name: str) -> Path:
        """Return the path of a file of a model's examples. Raises Problem 404 for any other name."""
        path = (await self._directory(model)).files.get(name)
        if path is None:
            raise not_found()
        return path

    async def _directory(self, model: ModelSettings) -> _Directory:
        if model.name not in self._directories:
            try:
                self._directories[model.name] = await asyncio.to_thread(_read_directory, model.examples)
            except (OSError, ValueError) as error:
                LOG.error("the examples of %s cannot be read: %r", model.name, error)
                raise unavailable(f"The examples of {model.name} cannot be read; see the server's log") from error
        return self._directories[model.name]


@dataclass(frozen=True)
class _Directory:
    """The examples of a model, and its other files by name."""

    examples: list[dict[str, Any]]
    files: dict[str, Path]


def _read_directory(directory: Path | None) -> _Directory:
    """Return what is in a directory. Raises OSError and ValueError."""
    examples, files = [], {}
    for path in sorted(directory.iterdir()) if directory is not None else ():
        if path.suffix != ".json":
            files[path.name] = path
            continue
        example = parse(path.read_bytes())
        if not isinstance(example, dict) or not {"id", "input", "output"} <= example.keys():
            raise ValueError(f"{path} is not a prediction with id, input and output")
        examples.append(example)
    return _Directory(examples, files)


def _body(example: dict[str, Any], model: ModelSettings, files: dict[str, str], base: str) -> dict[str, Any]:
    """Return an example in Replicate's format of a prediction. `files`: URLs by name."""
    url = f"{base}/v1/predictions/{example['id']}"
    return {
        **example,
        "model": model.name,
        "version": model.versions[0],
        "input": replace_strings(example["input"], files),
        "output": replace_strings(example["output"], files),
        "urls": {"cancel": f"{url}/cancel", "get": url, "web": url},
    }
