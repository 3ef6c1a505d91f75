"""Add, read, list and update predictions in the database. Each change is one transaction.

Each change adds 1 to `revision`, and `change_listeners` are called. A prediction that has ended does not change, except
that its data is removed. A change for a `callback_key` leaves a prediction unchanged that has another key, as another
server has then taken it over.
"""

from __future__ import annotations

import dataclasses
import re
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from predictions_api.store.database import events, now, predictions, without_nul
from predictions_api.store.events import Event, add_events
from predictions_api.store.predictions import Prediction

if TYPE_CHECKING:
    from collections.abc import Callable

    from predictions_api.store.database import Database
    from predictions_api.store.paging import Cursor

UNCHANGED: Final = object()  # the default where None is a value
IGNORED_INPUT: Final = "Ignored input "  # begins the first lines of the logs
WAITING_NOTICE: Final = "waiting for a worker ...\n"
# The line after them, if the prediction had to wait for a worker, or its model had to start.
STARTING: Final = re.compile(r"(?:starting \S+|waiting for a worker) \.\.\.\n")
RESTART_NOTICE: Final = "The server stopped while this prediction was running; it is run again.\n"


class Records:
    def __init__(self, database: Database) -> None:
        self.database = database
        # Called on the event loop with the changed Prediction, after the commit.
        self.change_listeners: list[Callable[[Prediction], None]] = []

    async def add(self, prediction: Prediction, *, queue_limit: int) -> bool:
        """Add a prediction. Return False, without adding it, if `queue_limit` of its model are waiting."""

        def work(connection: sa.Connection) -> bool:
            waiting = sa.select(sa.func.count()).where(
                predictions.c.model == prediction.model, predictions.c.status == "starting"
            )
            if connection.scalar(waiting) >= queue_limit:  # type: ignore[operator]
                return False
            connection.execute(sa.insert(predictions).values(**vars(prediction)))
            if prediction.stream_key is not None:
                add_events(connection, dataclasses.replace(prediction, logs=""), prediction)
            return True

        return await self.database.run(work)

    async def get(self, prediction_id: str) -> Prediction | None:
        return next(iter(await self._list(sa.select(predictions).where(predictions.c.id == prediction_id))), None)

    async def find_by_stream_key(self, stream_key: str) -> Prediction | None:
        return next(iter(await self._list(sa.select(predictions).where(predictions.c.stream_key == stream_key))), None)

    async def _list(self, query: sa.Select[Any]) -> list[Prediction]:
        return [Prediction(**row._mapping) for row in await self.database.rows(query)]

    async def list_changed(self, revisions: dict[str, int]) -> list[Prediction]:
        """Return the predictions whose revision is later than the given one. `revisions`: id -> revision."""
        query = sa.select(predictions.c.id, predictions.c.revision).where(predictions.c.id.in_(revisions))
        later = [row.id for row in await self.database.rows(query) if row.revision > revisions[row.id]]
        return await self._list(sa.select(predictions).where(predictions.c.id.in_(later))) if later else []

    async def page(
        self,
        *,
        size: int,
        cursor: Cursor | None = None,
        created_after: int | None = None,
        created_before: int | None = None,
        source: str | None = None,
    ) -> list[Prediction]:
        """Return up to `size` predictions, newest first, without their logs, which may be long."""
        columns = [column for column in predictions.c if column.name != "logs"]
        query = sa.select(*columns).limit(size)
        if cursor is not None:
            query = query.where(cursor.condition(predictions))
        if created_after is not None:
            query = query.where(predictions.c.created_at >= created_after)
        if created_before is not None:
            query = query.where(predictions.c.created_at < created_before)
        if source is not None:
            query = query.where(predictions.c.source == source)
        if cursor is not None and cursor.newer:
            return (await self._list(query.order_by(predictions.c.created_at, predictions.c.id)))[::-1]
        return await self._list(query.order_by(predictions.c.created_at.desc(), predictions.c.id.desc()))

    async def update(
        self,
        prediction_id: str,
        *,
        status: str | None = None,
        output: Any = UNCHANGED,
        logs: str | None = None,
        error: str | None = None,
        metrics: dict[str, Any] | None = None,
        callback_key: str | None = None,
    ) -> Prediction | None:
        """Update a prediction and return it, or None if it is missing.

        `output` and `logs` are the whole values, not what was added. Status `processing` sets started_at. A final
        status sets completed_at and the times in metrics. The events of the stream are written in the same transaction.
        """
        values: dict[str, Any] = {
            "status": status,
            "logs": None if logs is None else without_nul(logs),
            "error": None if error is None else without_nul(error),
            "metrics": metrics,
        }
        changes = {name: value for name, value in values.items() if value is not None}
        if output is not UNCHANGED:
            changes["output"] = output
        return await self._change(
            prediction_id, callback_key, lambda old: _with_times(dataclasses.replace(old, **changes))
        )

    async def renew_key(self, prediction_id: str, *, callback_key: str, new_key: str) -> Prediction | None:
        """Ignore callbacks of all attempts so far from now on."""
        return await self._change(
            prediction_id, callback_key, lambda old: dataclasses.replace(old, callback_key=new_key)
        )

    async def begin_attempt(self, prediction_id: str, *, worker: str, callback_key: str) -> Prediction | None:
        """Record a new attempt as `processing`, directly before the prediction is sent to the Cog server at `worker`.

        Output and logs are reset, except for the first lines, which this server wrote.
        """

        def attempt(old: Prediction) -> Prediction:
            notice = RESTART_NOTICE if old.attempts or old.status == "processing" else ""
            return dataclasses.replace(
                old,
                status="processing",
                output=None,
                logs=first_lines(old.logs) + notice,
                started_at=now(),
                worker=worker,
                attempts=old.attempts + 1,
            )

        return await self._change(prediction_id, callback_key, attempt)

    async def abort_attempt(self, prediction_id: str, *, callback_key: str, worker: str | None) -> None:
        """Do not count the attempt with this key. `worker` is the Cog server where it may still be running, or None."""

        def abort(old: Prediction) -> Prediction:
            new = dataclasses.replace(old, worker=worker, attempts=old.attempts - 1)
            return new if worker is not None else dataclasses.replace(new, status="starting", started_at=None)

        await self._change(prediction_id, callback_key, abort)

    async def _change(
        self, prediction_id: str, callback_key: str | None, change: Callable[[Prediction], Prediction]
    ) -> Prediction | None:
        def work(connection: sa.Connection) -> tuple[Prediction | None, bool]:
            query = sa.select(predictions).where(predictions.c.id == prediction_id).with_for_update()
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                return None, False
            old = Prediction(**row)
            if old.has_ended or callback_key not in (None, old.callback_key):
                return old, False
            new = change(old)
            if new == old:
                return old, False
            new = dataclasses.replace(new, revision=old.revision + 1)
            changes = {name: value for name, value in vars(new).items() if value != getattr(old, name)}
            connection.execute(sa.update(predictions).where(predictions.c.id == prediction_id).values(**changes))
            if new.stream_key is not None:
                add_events(connection, old, new)
            return new, True

        prediction, changed = await self.database.run(work)
        if changed and prediction is not None:
            for listener in self.change_listeners:
                listener(prediction)
        return prediction

    async def events(self, prediction_id: str, from_seq: int) -> list[Event]:
        """Return the events of a stream, starting at number `from_seq`."""
        query = sa.select(events.c.seq, events.c.kind, events.c.data, events.c.at).order_by(events.c.seq)
        query = query.where(events.c.prediction_id == prediction_id, events.c.seq >= from_seq)
        return [Event(*row) for row in await self.database.rows(query)]


def ignored_input_lines(logs: str) -> str:
    """Return the first lines of logs, those about ignored inputs."""
    return "".join(takewhile(lambda line: line.startswith(IGNORED_INPUT), logs.splitlines(keepends=True)))


def first_lines(logs: str) -> str:
    """Return the first lines of logs, those that this server wrote: ignored inputs, and the start of the model."""
    ignored = ignored_input_lines(logs)
    starting = STARTING.match(logs, len(ignored))
    return ignored + (starting[0] if starting else "")


def _with_times(new: Prediction) -> Prediction:
    moment = now()
    if new.status == "processing" and new.started_at is None:
        new = dataclasses.replace(new, started_at=moment)
    if new.has_ended:
        metrics = dict(new.metrics or {})
        metrics.setdefault("predict_time", 0.0 if new.started_at is None else (moment - new.started_at) / 1e6)
        metrics["total_time"] = (moment - new.created_at) / 1e6
        new = dataclasses.replace(new, completed_at=moment, metrics=metrics)
    return new
