"""Prepare the inputs of predictions for Cog servers: every file is a data: URI or has a URL of this server.

Predictions with URLs of other hosts wait in a queue of their own until their files are fetched. They delay neither a
Cog server nor other predictions. The row keeps the inputs that the client sent.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from predictions_api.errors import Problem
from predictions_api.run.fetch import FetchError, shown_url
from predictions_api.run.tasks import first_result
from predictions_api.store.data_uris import decode_data_uri, encode_data_uri
from predictions_api.store.file_urls import is_data_uri, is_http_url, own_file, replace_strings, strings_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from predictions_api.run.catalogue import Catalogue
    from predictions_api.run.fetch import Fetcher
    from predictions_api.store.changes import Changes
    from predictions_api.store.input_files import InputFiles
    from predictions_api.store.predictions import Prediction
    from predictions_api.store.records import Records

LOG = logging.getLogger("predictions_api.inputs")
FETCH: Final = "fetch"  # the name of the workflow
MAX_PREDICTIONS: Final = 100  # of one model whose files are fetched at the same time; `Fetcher` bounds the connections
WAIT: Final = 24 * 3600.0  # seconds for the end of a prediction, longer than any fetch


def queue_name(model: str) -> str:
    """Return the name of a model's queue. Servers that share a database may have different models."""
    return f"inputs of {model}"


def workflow_id(prediction_id: str) -> str:
    return f"inputs-{prediction_id}"


def may_need_fetch(inputs: Mapping[str, Any]) -> bool:
    """Return whether inputs have a URL of another host, in a field for files or not."""
    return any(is_http_url(text) and own_file(text) is None for text in strings_in(inputs))


@dataclass(frozen=True)
class Inputs:
    """Prepares the inputs of the predictions of this process. `enqueue` gets predictions that are prepared."""

    files: InputFiles
    catalogue: Catalogue
    fetcher: Fetcher
    records: Records
    changes: Changes
    enqueue: Callable[[str, str], Awaitable[None]]

    @property
    def queues(self) -> dict[str, int]:
        """Return the number of workflows at the same time, by the name of their queue."""
        return {queue_name(model.name): MAX_PREDICTIONS for model in self.catalogue.models}

    async def fetch(self, prediction_id: str) -> None:
        """Fetch the files of a prediction, then queue it for its model. May be called again after a crash."""
        prediction = await self.records.get(prediction_id)
        if prediction is None or prediction.has_ended:
            return
        try:
            await first_result(self.prepare(prediction), self.changes.wait_for_end(prediction_id, WAIT))
        except Problem as problem:
            if problem.status >= 500:  # the engine calls again
                raise
            LOG.warning("failed: %s", problem.detail, extra={"prediction": prediction_id})
            key = prediction.callback_key
            await self.records.update(prediction_id, status="failed", error=problem.detail, callback_key=key)
        else:
            await self.enqueue(prediction_id, prediction.model)

    async def prepare(self, prediction: Prediction) -> dict[str, Any]:
        """Return the inputs as a Cog server gets them. Fetches what is not fetched yet.

        Raises Problem 422 for a file that cannot be fetched, or an upload that has expired or was deleted.
        """
        inputs = prediction.input
        if not any(is_http_url(text) or is_data_uri(text) for text in strings_in(inputs)):
            return inputs
        own = await self.files.own_urls(inputs)
        file_inputs = await self.catalogue.file_inputs(prediction.model)
        fields = {text: name for name in sorted(file_inputs & inputs.keys()) for text in strings_in(inputs[name])}
        urls = {text: name for text, name in fields.items() if is_http_url(text) and text not in own}
        in_files = {**own, **await self._fetch_all(prediction.id, urls)}
        for text in filter(is_data_uri, fields):
            in_files[text] = await asyncio.to_thread(_normalize_data_uri, text)
        return {
            name: replace_strings(value, in_files if name in file_inputs else own) for name, value in inputs.items()
        }

    async def _fetch_all(self, prediction_id: str, urls: Mapping[str, str]) -> dict[str, str]:
        """Return the URLs for Cog servers of the files at `urls`, given with the names of their inputs."""
        if not urls:
            return {}
        stored = await self.files.fetched_urls(prediction_id)
        missing = {url: field for url, field in urls.items() if url not in stored}
        tasks: dict[str, asyncio.Task[str]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for url, field in missing.items():
                    tasks[url] = group.create_task(self._fetch(prediction_id, url, field))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return stored | {url: task.result() for url, task in tasks.items()}

    async def _fetch(self, prediction_id: str, url: str, field: str) -> str:
        try:
            fetched = await self.fetcher.fetch(url)
        except FetchError as error:
            text = f"{field}: {shown_url(url)} cannot be fetched: {error}; {self.fetcher.allowed}"
            raise Problem(422, text, title="Input validation failed") from error
        return await self.files.add(prediction_id, url, fetched.part, fetched.name, fetched.content_type)


def _normalize_data_uri(data_uri: str) -> str:
    """Return a data: URI in the form that Cog reads."""
    return encode_data_uri(*decode_data_uri(data_uri))
