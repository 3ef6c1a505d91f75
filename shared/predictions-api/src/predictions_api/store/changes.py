"""Wait for a prediction to change, in this process or in another server.

A change by this process wakes its waiters at once. Changes by other servers are found by one query every 0.2 s for all
waiters together. The last revisions that this process wrote are kept, so that most waits need no query.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from predictions_api.errors import Problem

if TYPE_CHECKING:
    from predictions_api.store.predictions import Prediction
    from predictions_api.store.records import Records

LOG = logging.getLogger("predictions_api.changes")
POLL_INTERVAL = 0.2  # seconds
REVISIONS = 10_000  # predictions whose last revision is kept


class Changes:
    """The waiters of this process, and the task that polls the database for them."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self._waiters: dict[str, dict[asyncio.Future[Prediction], int]] = {}
        self._revisions: dict[str, int] = {}  # by id, the oldest change first
        self._poller: asyncio.Task[None] | None = None
        records.change_listeners += [self.remember, self._wake]

    async def open(self) -> None:
        self._poller = asyncio.create_task(self._poll())

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller
        for futures in self._waiters.values():
            for future in futures:
                future.cancel()

    async def wait(self, prediction_id: str, after_revision: int, timeout: float) -> Prediction | None:
        """Return the prediction once its revision is later than `after_revision`; None after `timeout` seconds."""
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(prediction_id, {})
        waiters[future] = after_revision
        try:
            # A later change by this process wakes the future, and one by another server is found by the poll.
            if self._revisions.get(prediction_id) != after_revision:
                changed = await self.records.list_changed({prediction_id: after_revision})
                if changed:
                    return changed[0]
            async with asyncio.timeout(max(timeout, 0)):
                return await future
        except TimeoutError:
            return None
        finally:
            waiters.pop(future, None)
            if not waiters and self._waiters.get(prediction_id) is waiters:
                del self._waiters[prediction_id]

    async def wait_for_end(self, prediction_id: str, timeout: float, *, after_revision: int = -1) -> Prediction | None:
        """Return the prediction once it has ended; None after `timeout` seconds. It had not at `after_revision`."""
        revision = after_revision
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(timeout, 0)):
                while True:
                    prediction = await self.wait(prediction_id, revision, 3600)
                    if prediction is not None and prediction.has_ended:
                        return prediction
                    revision = revision if prediction is None else prediction.revision
        return None

    def remember(self, prediction: Prediction) -> None:
        """Keep the revision of a prediction that this process wrote."""
        self._revisions.pop(prediction.id, None)
        self._revisions[prediction.id] = prediction.revision
        if len(self._revisions) > REVISIONS:
            del self._revisions[next(iter(self._revisions))]

    def _wake(self, prediction: Prediction) -> None:
        for future, revision in list(self._waiters.get(prediction.id, {}).items()):
            if not future.done() and prediction.revision > revision:
                future.set_result(prediction)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            revisions = {key: min(futures.values()) for key, futures in self._waiters.items() if futures}
            if not revisions:
                continue
            try:
                for prediction in await self.records.list_changed(revisions):
                    self._wake(prediction)
            except Problem as problem:  # the database is unavailable now; the next poll may succeed
                LOG.warning("changes: %s", problem.detail)
