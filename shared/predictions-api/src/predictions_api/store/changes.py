"""Waiting for a prediction to change, whichever server changes it.

What this process writes wakes its waiters at once. What other servers write is seen by one query every 0.2 s for all
waiters together, however many they are.
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


class Changes:
    """Those who wait, and the one who looks for them. `open` starts the looking."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self._waiters: dict[str, dict[asyncio.Future[Prediction], int]] = {}
        self._poller: asyncio.Task[None] | None = None
        records.change_listeners.append(self._wake)

    async def open(self) -> None:
        """Start looking for what other servers write."""
        self._poller = asyncio.create_task(self._poll())

    async def close(self) -> None:
        """Stop looking, and let go of all who wait."""
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
            found = await self.records.list_changed({prediction_id: after_revision})
            if found:
                return found[0]
            async with asyncio.timeout(max(timeout, 0)):
                return await future
        except TimeoutError:
            return None
        finally:
            waiters.pop(future, None)
            if not waiters and self._waiters.get(prediction_id) is waiters:
                del self._waiters[prediction_id]

    async def wait_for_end(self, prediction_id: str, timeout: float) -> Prediction | None:
        """Return the prediction once it has ended; None after `timeout` seconds."""
        revision = -1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(timeout, 0)):
                while True:
                    found = await self.wait(prediction_id, revision, 3600)
                    if found is not None and found.has_ended:
                        return found
                    revision = revision if found is None else found.revision
        return None

    def _wake(self, prediction: Prediction) -> None:
        for future, after in list(self._waiters.get(prediction.id, {}).items()):
            if not future.done() and prediction.revision > after:
                future.set_result(prediction)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            wanted = {name: min(futures.values()) for name, futures in self._waiters.items() if futures}
            if not wanted:
                continue
            try:
                for prediction in await self.records.list_changed(wanted):
                    self._wake(prediction)
            except Problem as problem:  # the database is away; the next look may find it back
                LOG.warning("changes: %s", problem.detail)
