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
        self._models = {model.name: model for model in models}
        self._directories: dict[str, _Directory] = {}

    async def readme(self, full_name: str) -> str:
        """Return a model's README. Raises Problem 404 if it has none, and 503 if it cannot be read."""
        path = self._models[full_name].readme
        if path is None:
            raise not_found()
        try:
            return await asyncio.to_thread(path.read_text, "utf-8")
        except (OSError, ValueError) as error:
            LOG.error("the README of %s cannot be read: %r", full_name, error)
            raise unavailable(f"The README of {full_name} cannot be read; see the server's log") from error

    async def list(self, full_name: str, base: str) -> list[dict[str, Any]]:
        """Return a model's examples in the order of their names, with URLs below `base`.

        The version is the newest one. Raises Problem 503 if an example cannot be read.
        """
        urls = await self.file_urls(full_name, base)
        return [self._body(example, full_name, urls, base) for example in (await self._directory(full_name)).examples]

    async def file_urls(self, full_name: str, base: str) -> dict[str, str]:
        """Return the URLs of the files of a model's examples, by their names. Raises Problem 503."""
        files = (await self._directory(full_name)).files
        return {name: f"{base}/v1/models/{full_name}/examples/{quote(name)}" for name in files}

    async def find(self, prediction_id: str, base: str) -> dict[str, Any]:
        """Return the example with an id, as `list` does. Raises Problem 404 if no model has it."""
        for full_name in self._models:
            with contextlib.suppress(Problem):  # an example that cannot be read is in the log
                for example in await self.list(full_name, base):
                    if example["id"] == prediction_id:
                        return example
        raise not_found()

    async def file(self, full_name: str, name: str) -> Path:
        """Return the path of a file of a model's examples. Raises Problem 404 for any other name."""
        path = (await self._directory(full_name)).files.get(name)
        if path is None:
            raise not_found()
        return path

    async def _directory(self, full_name: str) -> _Directory:
        if full_name not in self._directories:
            path = self._models[full_name].examples
            try:
                directory = _Directory([], {}) if path is None else await asyncio.to_thread(_read_directory, path)
            except (OSError, ValueError) as error:
                LOG.error("the examples of %s cannot be read: %r", full_name, error)
                raise unavailable(f"The examples of {full_name} cannot be read; see the server's log") from error
            self._directories[full_name] = directory
        return self._directories[full_name]

    def _body(self, example: dict[str, Any], full_name: str, files: dict[str, str], base: str) -> dict[str, Any]:
        """Return an example in Replicate's format of a prediction. `files`: URLs by name."""
        url = f"{base}/v1/predictions/{example['id']}"
        return {
            **example,
            "model": full_name,
            "version": self._models[full_name].versions[0],
            "input": replace_strings(example["input"], files),
            "output": replace_strings(example["output"], files),
            "urls": {"cancel": f"{url}/cancel", "get": url, "web": url},
        }


@dataclass(frozen=True)
class _Directory:
    """The examples of a model, and its other files by name."""

    examples: list[dict[str, Any]]
    files: dict[str, Path]


def _read_directory(directory: Path) -> _Directory:
    """Return what is in a directory. Raises OSError and ValueError."""
    examples, files = [], {}
    for path in sorted(directory.iterdir()):
        if path.suffix != ".json":
            files[path.name] = path
            continue
        example = parse(path.read_bytes())
        if not isinstance(example, dict) or not {"id", "input", "output"} <= example.keys():
            raise ValueError(f"{path} is not a prediction with id, input and output")
        examples.append(example)
    return _Directory(examples, files)
