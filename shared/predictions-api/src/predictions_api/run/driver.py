"""Run one prediction from the queue to its end: borrow a Cog server, send the inputs, wait for the callbacks.

Cog's callbacks reach `Driver.receive` through a route. A cancel or a deadline ends the row at once. The driver notices
that and stops the prediction in Cog. If this server stops while a prediction runs, the prediction is run again from its
start, with a notice in its logs. After a second stop the prediction fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from predictions_api.errors import Problem, unavailable
from predictions_api.run.cog_client import (
    Busy,
    CogClient,
    CogError,
    NotConnected,
    NotReady,
    Progress,
    parse_progress,
)
from predictions_api.run.tasks import first_result
from predictions_api.store.database import random_key
from predictions_api.store.records import UNCHANGED, ignored_input_lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import httpx

    from predictions_api.run.catalogue import Version
    from predictions_api.run.inputs import Inputs
    from predictions_api.run.workers import Workers
    from predictions_api.settings import Settings
    from predictions_api.store.changes import Changes
    from predictions_api.store.files import Files
    from predictions_api.store.predictions import Prediction
    from predictions_api.store.records import Records

LOG = logging.getLogger("predictions_api.driver")
MAX_ATTEMPTS: Final = 2
CALLBACK_DELAY: Final = 2.0  # seconds
RETRY_INTERVAL: Final = 0.1  # seconds before a prediction that a Cog server did not accept is sent again
CANCEL_TIMEOUT: Final = 60.0  # seconds for a Cog server to end a canceled prediction

INTERRUPTED_ERROR: Final = (
    "Prediction interrupted: the server stopped twice while it was running. It is not run a third time; "
    "create it again if the model did not cause the stops."
)


@dataclass
class Driver:
    """Runs the predictions of this process."""

    settings: Settings
    records: Records
    changes: Changes
    files: Files
    inputs: Inputs
    workers: Mapping[str, Workers]  # by the model's owner/name
    http: httpx.AsyncClient

    def __post_init__(self) -> None:
        self._attempts_by_key: dict[str, _Attempt] = {}  # callback key -> attempt

    async def drive(self, prediction_id: str) -> None:
        """Run a prediction to its end. May be called again after a crash in between."""
        prediction = await self.records.get(prediction_id)
        if prediction is None:
            return
        key = prediction.callback_key
        if prediction.worker is not None:
            cog, new_key = CogClient(prediction.worker, self.http), random_key()
            # Before the cancellation, whose callback is not to be recorded.
            prediction = await self.records.renew_key(prediction_id, callback_key=key, new_key=new_key)
            await _stop(cog, prediction_id)
            key = new_key
        if prediction is None or prediction.has_ended:
            return
        if prediction.callback_key != key:
            raise _taken_over()
        if prediction.attempts >= MAX_ATTEMPTS:
            await self.fail(prediction_id, key, INTERRUPTED_ERROR)
            return
        if prediction.model not in self.workers:
            await self.fail(prediction_id, key, f"The model {prediction.model} is not served any more")
            return
        try:
            await first_result(self._attempt_until_accepted(prediction), self._wait_for_end(prediction))
        except CogError as error:
            await self.fail(prediction_id, key, str(error))
        except Problem as problem:
            if problem.status >= 500:  # the engine calls again
                raise
            await self.fail(prediction_id, key, problem.detail)
        except Exception as error:
            LOG.exception("the driver failed", extra={"prediction": prediction_id})
            await self.fail(prediction_id, key, f"The server failed to run this prediction: {type(error).__name__}")

    async def _attempt_until_accepted(self, prediction: Prediction) -> None:
        inputs = await self.inputs.prepare(prediction)
        began = time.monotonic()
        while True:
            try:
                return await self._attempt(prediction, inputs)
            except (Busy, NotReady, NotConnected):  # another user was faster, or the server has stopped
                if time.monotonic() > began + self.settings.setup_timeout:
                    raise
            await asyncio.sleep(RETRY_INTERVAL)

    async def _attempt(self, prediction: Prediction, inputs: Mapping[str, Any]) -> None:
        """Run the prediction. Raises Busy, NotReady or NotConnected if the Cog server did not accept it.

        Raises Problem 503 if another server has taken it over, which changes the key of the prediction.
        """
        workers, key = self.workers[prediction.model], prediction.callback_key
        if workers.status() != "ready":
            starting = f"starting {prediction.model.partition('/')[2]} ...\n"
            logs = ignored_input_lines(prediction.logs) + starting
            await self.records.update(prediction.id, logs=logs, callback_key=key)
        async with workers.lend() as cog:
            version = await self.inputs.catalogue.find(prediction.model)
            recorded = await self.records.begin_attempt(prediction.id, worker=cog.url, callback_key=key)
            if recorded is None or recorded.has_ended:
                return
            if recorded.callback_key != key:
                raise _taken_over()
            attempt = self._attempts_by_key[key] = _Attempt(recorded.logs, version)
            try:
                LOG.info("sent to %s", cog.url, extra={"prediction": prediction.id})
                callback = f"{self.settings.callback_url}/callbacks/{prediction.id}/{key}"
                send = partial(cog.start, prediction.id, inputs, callback, streams=version.streams)
                await send()
                await self._follow(cog, recorded, send)
            except (Busy, NotReady, NotConnected):
                attempt.is_accepted = False
                await self.records.abort_attempt(prediction.id, callback_key=key, worker=None)
                raise
            except (asyncio.CancelledError, Problem):  # it has ended, this server stops, or the database is unavailable
                if not await attempt.has_ended():
                    with contextlib.suppress(Problem):
                        await self.records.abort_attempt(prediction.id, callback_key=key, worker=cog.url)
                raise
            finally:
                del self._attempts_by_key[key]
                if attempt.is_accepted and not await attempt.has_ended():
                    await asyncio.shield(self._release(cog, prediction.id, key))
                elif attempt.recorded.status == "succeeded":
                    cog.note("READY")

    async def _release(self, cog: CogClient, prediction_id: str, key: str) -> None:
        """Stop the prediction in the Cog server, unless a newer attempt runs it there."""
        with contextlib.suppress(Problem):
            prediction = await self.records.get(prediction_id)
            if prediction is not None and prediction.callback_key != key and prediction.worker == cog.url:
                return
        await _stop(cog, prediction_id)

    async def _follow(self, cog: CogClient, attempted: Prediction, send: Callable[[], Awaitable[bool]]) -> None:
        """Wait until the prediction has ended. Fail it if Cog will not report an end."""
        failure = await first_result(
            self._wait_for_end(attempted, attempted.callback_key),
            cog.wait_for_failure(),
            self._watch_for_lost_completion(cog, attempted, send),
        )
        if failure is not None:
            await self.fail(attempted.id, attempted.callback_key, f"Prediction interrupted: {failure}")

    async def _watch_for_lost_completion(
        self, cog: CogClient, attempted: Prediction, send: Callable[[], Awaitable[bool]]
    ) -> str:
        """Wait until the Cog server no longer has the prediction, but its end was not reported. Return the reason.

        Cog has no request for this, so the prediction is sent again. If Cog has it, nothing changes. Otherwise Cog
        starts it again, or refuses it because of another one. The caller then stops a prediction started this way.
        """
        key = attempted.callback_key
        while True:
            silence = time.monotonic() - self._attempts_by_key[key].last_call_at
            if silence < self.settings.silence:
                await asyncio.sleep(self.settings.silence - silence)
                continue
            current = await self.records.get(attempted.id)
            if current is not None and current.callback_key != key:  # after a pause of this server
                raise _taken_over()
            try:
                restarted = await send()
            except Busy:
                restarted = True
            except CogError:  # `wait_for_failure` decides whether the failure lasts
                restarted = False
            if restarted:
                await asyncio.sleep(CALLBACK_DELAY)  # the last callback may still be on its way
                callback_url = self.settings.callback_url
                return (
                    f"the Cog server at {cog.url} has ended it, but its result did not reach {callback_url}; "
                    f"if the Cog server has a proxy in its environment (HTTP_PROXY, ALL_PROXY), "
                    f"add {urlsplit(callback_url).hostname} to its NO_PROXY"
                )
            self._attempts_by_key[key].last_call_at = time.monotonic()

    async def _wait_for_end(self, prediction: Prediction, key: str | None = None) -> None:
        """Wait until the prediction has ended. Raises Problem 503 when it gets another key than `key`, if given."""
        revision = prediction.revision
        while True:
            try:
                changed = await self.changes.wait(prediction.id, revision, 60.0)
            except Problem:  # the database is unavailable
                await asyncio.sleep(1.0)
                continue
            if changed is None:
                continue
            if changed.has_ended:
                return
            if key not in (None, changed.callback_key):
                raise _taken_over()
            revision = changed.revision

    async def fail(self, prediction_id: str, callback_key: str, error: str) -> None:
        """End a prediction with this key as failed. The driver that runs it then stops it in Cog."""
        LOG.warning("failed: %s", error, extra={"prediction": prediction_id})
        await self.records.update(prediction_id, status="failed", error=error, callback_key=callback_key)

    def is_running(self, key: str) -> bool:
        """Return whether the attempt with this key runs in this process."""
        return key in self._attempts_by_key

    async def receive(self, prediction_id: str, key: str, payload: Mapping[str, Any]) -> bool:
        """Record the progress in a callback. Return False if its attempt is not running.

        Callbacks may arrive repeatedly or out of order, so the furthest progress is recorded. Those that arrive while
        another is recorded are recorded together. Raises ValueError for an unexpected body.
        """
        attempt = self._attempts_by_key.get(key)
        if attempt is None:
            return False
        attempt.reported = attempt.reported.with_later(parse_progress(payload, streams=attempt.version.streams))
        attempt.last_call_at = time.monotonic()
        async with attempt.lock:
            progress = attempt.reported
            if progress == attempt.recorded:
                return True
            is_same = progress.output == attempt.recorded.output
            files = attempt.version.files_in(progress.output)
            output = UNCHANGED if is_same else await self.files.store_output(prediction_id, progress.output, files)
            prediction = await self.records.update(
                prediction_id,
                status=None if progress.status == "starting" else progress.status,
                output=output,
                logs=attempt.first_logs + progress.logs,
                error=progress.error,
                metrics=progress.metrics,
                callback_key=key,
            )
            attempt.recorded = progress
            return prediction is not None and prediction.callback_key == key


@dataclass
class _Attempt:
    """The progress of one attempt. `first_logs` precede the logs that Cog reports."""

    first_logs: str
    version: Version
    reported: Progress = field(default_factory=Progress)
    recorded: Progress = field(default_factory=Progress)
    is_accepted: bool = True
    last_call_at: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def has_ended(self) -> bool:
        """Return whether Cog's report of the end is recorded. Waits for a report that is being recorded."""
        async with self.lock:
            return self.recorded.has_ended


def _taken_over() -> Problem:
    return unavailable("another server has taken it over")


async def _stop(cog: CogClient, prediction_id: str) -> None:
    """Stop a prediction in a Cog server and wait for its end. Cog loses early cancels, so they are repeated."""
    deadline = time.monotonic() + CANCEL_TIMEOUT
    with contextlib.suppress(CogError):
        while await cog.cancel(prediction_id):
            if time.monotonic() > deadline:
                LOG.warning("%s does not end a canceled prediction", cog.url, extra={"prediction": prediction_id})
                return
            await asyncio.sleep(0.1)
