"""The way of one prediction from the queue to its end: a Cog server is lent, given the inputs, and followed.

What Cog tells comes to the receiver route, which asks `Driver.receive`; the row is the only thing that the two share,
so it does not matter to which server's process Cog talks. A cancel or a deadline ends the row at once; the driver sees
that and ends the work in Cog. When the server died meanwhile, the prediction is run once more from its start, and says
so in its logs; after a second death it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from predictions_api.errors import Problem
from predictions_api.run.cog_client import Busy, CogClient, CogError, Progress, parse_progress
from predictions_api.store.database import random_key
from predictions_api.store.records import UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import httpx

    from predictions_api.run.workers import Workers
    from predictions_api.store.changes import Changes
    from predictions_api.store.files import Files
    from predictions_api.store.predictions import Prediction
    from predictions_api.store.records import Records

LOG = logging.getLogger("predictions_api.driver")
MAX_ATTEMPTS: Final = 2
CALLBACK_DELAY: Final = 2.0  # seconds
LONG_RUN: Final = 5.0  # seconds; what has run so long will not end just now
CANCEL_TIMEOUT: Final = 60.0  # seconds that a Cog server has to end what was canceled

INTERRUPTED_ERROR: Final = (
    "Prediction interrupted: the server stopped twice while it was running. It is not run a third time; "
    "create it again if the model is not what stopped the server."
)


class Driver:
    """Drives the predictions of this process; `workers` are the models' Cog servers by the model's name."""

    def __init__(
        self,
        records: Records,
        changes: Changes,
        files: Files,
        workers: Mapping[str, Workers],
        http: httpx.AsyncClient,
        callback_url: str,
        silence: float,
    ) -> None:
        self.records = records
        self.changes = changes
        self.files = files
        self.workers = workers
        self.http = http
        self.callback_url = callback_url
        self.silence = silence  # seconds
        self._attempts_by_key: dict[str, _Attempt] = {}  # by callback key
        self._running_since: dict[str, tuple[str, float]] = {}  # id -> model, time.monotonic() of the start

    async def drive(self, prediction_id: str) -> None:
        """Bring a prediction to its end. May be called again for one whose process died in between."""
        prediction = await self.records.get(prediction_id)
        if prediction is None:
            return
        self._running_since[prediction_id] = (prediction.model, time.monotonic())
        try:
            await self._drive(prediction)
        finally:
            del self._running_since[prediction_id]

    def has_capacity_soon(self, model: str) -> bool:
        """Tell whether the model can take another prediction now or, as far as is known, in a moment."""
        late = time.monotonic() - LONG_RUN
        long = sum(name == model and since < late for name, since in self._running_since.values())
        return model in self.workers and long < self.workers[model].size

    async def _drive(self, prediction: Prediction) -> None:
        prediction_id = prediction.id
        if prediction.worker is not None:
            # The old server may live still: Cog's word that this was canceled must not reach it.
            await self.records.invalidate_callbacks(prediction_id, callback_key=random_key())
            await _stop(CogClient(prediction.worker, self.http), prediction_id)
        if prediction.has_ended:
            return
        if prediction.attempts >= MAX_ATTEMPTS:
            await self.fail(prediction_id, INTERRUPTED_ERROR)
            return
        if prediction.model not in self.workers:
            await self.fail(prediction_id, f"The model {prediction.model} is not served any more")
            return
        working = asyncio.create_task(self._attempt_until_taken(prediction))
        ended = asyncio.create_task(self._wait_for_end(prediction_id))
        try:
            await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
            if not working.done():
                working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
        except CogError as error:
            await self.fail(prediction_id, str(error))
        except Problem as problem:
            if problem.status >= 500:  # the engine tries again
                raise
            await self.fail(prediction_id, problem.detail)
        except Exception as error:
            LOG.exception("the driver failed", extra={"prediction": prediction_id})
            await self.fail(prediction_id, f"The server failed to run this prediction: {type(error).__name__}")
        finally:
            for task in (working, ended):
                task.cancel()
            await asyncio.gather(working, ended, return_exceptions=True)

    async def _attempt_until_taken(self, prediction: Prediction) -> None:
        while not await self._attempt(prediction):
            pass

    async def _attempt(self, prediction: Prediction) -> bool:
        """Run the prediction; return False where another user of the lent Cog server was faster."""
        async with self.workers[prediction.model].lend() as cog:
            inputs = await self.files.resolve(prediction.input)
            key = random_key()
            started = await self.records.begin_attempt(prediction.id, worker=cog.url, callback_key=key)
            if started is None or started.has_ended:
                return True
            self._attempts_by_key[key] = _Attempt(started.logs)
            try:
                LOG.info("given to %s", cog.url, extra={"prediction": prediction.id})
                callback = f"{self.callback_url}/callbacks/{prediction.id}/{key}"
                send = partial(cog.start, prediction.id, inputs, callback)
                await send()
                with contextlib.suppress(Problem):  # the database is away for a moment: Cog's first webhook says it too
                    await self.records.update(prediction.id, status="processing")
                await self._follow(cog, prediction.id, key, send)
                return True
            except Busy:
                await self.records.abort_attempt(prediction.id, callback_key=key, worker=None)
                return False
            except (asyncio.CancelledError, Problem):  # an orderly stop, or the database is away: not the model's fault
                with contextlib.suppress(Problem):
                    await self.records.abort_attempt(prediction.id, callback_key=key, worker=cog.url)
                raise
            finally:
                if not self._attempts_by_key.pop(key).progress.has_ended:
                    await asyncio.shield(self._release(cog, prediction.id, key))

    async def _release(self, cog: CogClient, prediction_id: str, key: str) -> None:
        """Make the Cog server free for the next one, unless another attempt has the prediction by now, maybe there."""
        with contextlib.suppress(Problem):
            now = await self.records.get(prediction_id)
            if now is not None and now.callback_key != key:
                return
        await _stop(cog, prediction_id)

    async def _follow(self, cog: CogClient, prediction_id: str, key: str, send: Callable[[], Awaitable[bool]]) -> None:
        """Return when the prediction has ended, or is another process's; fail when nothing will be told of it."""
        end = asyncio.create_task(self._wait_for_end(prediction_id, key))
        failures = [
            asyncio.create_task(cog.wait_for_failure()),
            asyncio.create_task(self._watch_for_lost_completion(cog, key, send)),
        ]
        try:
            done, _ = await asyncio.wait({end, *failures}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                await self.fail(prediction_id, f"Prediction interrupted: {done.pop().result()}")
        finally:
            for task in (end, *failures):
                task.cancel()
            await asyncio.gather(end, *failures, return_exceptions=True)

    async def _watch_for_lost_completion(self, cog: CogClient, key: str, send: Callable[[], Awaitable[bool]]) -> str:
        """Return when Cog has no such prediction any more, though it has not told its end, with the reason.

        Cog cannot be asked. To be given a prediction that it has changes nothing; one that it has not is begun, or
        refused because of another, and what is begun so is ended by whoever called.
        """
        while True:
            quiet = time.monotonic() - self._attempts_by_key[key].last_call_at
            if quiet < self.silence:
                await asyncio.sleep(self.silence - quiet)
                continue
            try:
                restarted = await send()
            except Busy:
                restarted = True
            except CogError:  # `wait_for_failure` tells whether that lasts
                restarted = False
            if restarted:
                await asyncio.sleep(CALLBACK_DELAY)  # Cog is free before its last word has come
                return f"{cog.url} has ended it, but what came of it did not reach {self.callback_url}"
            self._attempts_by_key[key].last_call_at = time.monotonic()

    async def _wait_for_end(self, prediction_id: str, key: str | None = None) -> None:
        """Return when the prediction has ended, or, with `key`, when another attempt has begun."""
        revision = -1
        while True:
            try:
                now = await self.changes.wait(prediction_id, revision, 60.0)
            except Problem:  # the database is away
                await asyncio.sleep(1.0)
                continue
            if now is None:
                continue
            if now.has_ended or (key is not None and now.callback_key != key):
                return
            revision = now.revision

    async def fail(self, prediction_id: str, error: str) -> None:
        """End a prediction as failed; what runs of it in Cog is stopped then."""
        LOG.warning("failed: %s", error, extra={"prediction": prediction_id})
        await self.records.update(prediction_id, status="failed", error=error)

    async def receive(self, prediction_id: str, key: str, payload: Mapping[str, Any], *, streams: bool) -> bool:
        """Take what a Cog server tells of a prediction; return False where nobody waits for it any more.

        Raises ValueError for what Cog does not send. Cog's calls overtake each other and repeat: what is recorded is
        the longest of all that was told.
        """
        attempt = self._attempts_by_key.get(key)
        if attempt is None:
            return False
        update = parse_progress(payload, streams=streams)
        attempt.last_call_at = time.monotonic()
        async with attempt.lock:
            progress = attempt.progress.with_later(update)
            if progress == attempt.progress:
                return True
            is_same = progress.output == attempt.progress.output
            output = UNCHANGED if is_same else await self.files.store_output(prediction_id, progress.output)
            await self.records.update(
                prediction_id,
                status=None if progress.status == "starting" else progress.status,
                output=output,
                logs=attempt.first_logs + progress.logs,
                error=progress.error,
                metrics=progress.metrics,
            )
            attempt.progress = progress
            return True


@dataclass
class _Attempt:
    """What a Cog server told of one attempt so far; `first_logs` are the ones that begin the prediction's."""

    first_logs: str
    progress: Progress = field(default_factory=Progress)
    last_call_at: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


async def _stop(cog: CogClient, prediction_id: str) -> None:
    """End a prediction in a Cog server; return when the server has it no more. Cog loses a cancel that comes early."""
    until = time.monotonic() + CANCEL_TIMEOUT
    with contextlib.suppress(CogError):
        while await cog.cancel(prediction_id):
            if time.monotonic() > until:
                LOG.warning("%s does not end what was canceled", cog.url, extra={"prediction": prediction_id})
                return
            await asyncio.sleep(0.1)
