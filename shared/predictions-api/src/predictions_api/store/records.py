"""What is kept of predictions: made, read, listed, and changed in one place, `update`, one transaction a change.

Each change adds 1 to `revision`; changes.py wakes those who wait for one. A prediction that has ended changes no more,
but for the removal of its data.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from predictions_api.store.database import events, now, predictions, without_nul
from predictions_api.store.events import Event, add_events
from predictions_api.store.predictions import Prediction

if TYPE_CHECKING:
    from collections.abc import Callable

    from predictions_api.store.database import Database

UNCHANGED: Final = object()  # stands for "leave as it is" where None is a value
RESTART_NOTICE: Final = "The server stopped while this prediction was running; it is run again.\n"


class Records:
    """The predictions in a database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        # Called on the event loop with each Prediction after its change is committed.
        self.change_listeners: list[Callable[[Prediction], None]] = []

    async def add(self, prediction: Prediction, *, queue_limit: int) -> bool:
        """Add a prediction; return False where `queue_limit` of its model wait already."""

        def work(connection: sa.Connection) -> bool:
            waiting = sa.select(sa.func.count()).where(
                predictions.c.model == prediction.model, predictions.c.status == "starting"
            )
            if connection.scalar(waiting) >= queue_limit:  # type: ignore[operator]
                return False
            connection.execute(sa.insert(predictions).values(**dataclasses.asdict(prediction)))
            return True

        return await self.database.run(work)

    async def get(self, prediction_id: str) -> Prediction | None:
        """Return the prediction, None where there is none."""
        return await self._get_where(predictions.c.id == prediction_id)

    async def find_by_stream_key(self, stream_key: str) -> Prediction | None:
        """Return the prediction whose stream has this address."""
        return await self._get_where(predictions.c.stream_key == stream_key)

    async def _get_where(self, condition: sa.ColumnElement[bool]) -> Prediction | None:
        def work(connection: sa.Connection) -> Prediction | None:
            row = connection.execute(sa.select(predictions).where(condition)).mappings().one_or_none()
            return None if row is None else Prediction(**row)

        return await self.database.read(work)

    async def list_changed(self, revisions: dict[str, int]) -> list[Prediction]:
        """Return those of the predictions (id -> revision) that have a later revision than given, in one query."""

        def work(connection: sa.Connection) -> list[Prediction]:
            query = sa.select(predictions).where(predictions.c.id.in_(revisions))
            revisions_now = connection.execute(query.with_only_columns(predictions.c.id, predictions.c.revision))
            later = [row.id for row in revisions_now if row.revision > revisions[row.id]]
            return (
                [
                    Prediction(**row)
                    for row in connection.execute(sa.select(predictions).where(predictions.c.id.in_(later))).mappings()
                ]
                if later
                else []
            )

        return await self.database.read(work)

    async def page(
        self,
        *,
        size: int,
        before: tuple[int, str] | None = None,
        after: tuple[int, str] | None = None,
        created_after: int | None = None,
        created_before: int | None = None,
        source: str | None = None,
    ) -> list[Prediction]:
        """Return up to `size` predictions, newest first: the newest, or those next to a position on either side.

        `before` and `after` are a row's (created_at, id): older and newer than it. Logs are left out: a list row is
        read for its status, and logs may be long.
        """
        place = sa.tuple_(predictions.c.created_at, predictions.c.id)
        columns = [column for column in predictions.c if column.name != "logs"]
        query = sa.select(*columns).limit(size)
        if before is not None:
            query = query.where(place < sa.tuple_(*map(sa.literal, before)))
        if after is not None:
            query = query.where(place > sa.tuple_(*map(sa.literal, after)))
        if created_after is not None:
            query = query.where(predictions.c.created_at >= created_after)
        if created_before is not None:
            query = query.where(predictions.c.created_at < created_before)
        if source is not None:
            query = query.where(predictions.c.source == source)
        order = [predictions.c.created_at, predictions.c.id]
        query = query.order_by(*(order if after is not None else [column.desc() for column in order]))

        def work(connection: sa.Connection) -> list[Prediction]:
            return [Prediction(**row) for row in connection.execute(query).mappings()]

        rows = await self.database.read(work)
        return rows[::-1] if after is not None else rows

    async def update(
        self,
        prediction_id: str,
        *,
        status: str | None = None,
        output: Any = UNCHANGED,
        logs: str | None = None,
        error: str | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> Prediction | None:
        """Record what has become of a prediction; return it as it is then, None where there is none.

        `output` and `logs` are whole, not what was added. An ended prediction is left as it is. `processing` sets
        started_at, an end sets completed_at and the times in metrics. Its stream gets its events in the same
        transaction.
        """
        values: dict[str, Any] = {
            "status": status,
            "logs": None if logs is None else without_nul(logs),
            "error": None if error is None else without_nul(error),
            "metrics": metrics,
        }
        given = {name: value for name, value in values.items() if value is not None}
        if output is not UNCHANGED:
            given["output"] = output
        return await self._change(prediction_id, lambda old: _with_times(dataclasses.replace(old, **given)))

    async def begin_attempt(self, prediction_id: str, *, worker: str, callback_key: str) -> Prediction | None:
        """Record that the Cog server at `worker` is about to be given a prediction: a new attempt, which starts afresh.

        Webhooks that carry the callback key of an earlier attempt count no more.
        """

        def attempt(old: Prediction) -> Prediction:
            notice = RESTART_NOTICE if old.attempts or old.logs or old.status == "processing" else ""
            return dataclasses.replace(
                old,
                status="starting",
                output=None,
                logs=notice,
                started_at=None,
                worker=worker,
                callback_key=callback_key,
                attempts=old.attempts + 1,
            )

        return await self._change(prediction_id, attempt)

    async def invalidate_callbacks(self, prediction_id: str, *, callback_key: str) -> None:
        """Let no webhook of the attempts so far count any more."""
        await self._change(prediction_id, lambda old: dataclasses.replace(old, callback_key=callback_key))

    async def abort_attempt(self, prediction_id: str, *, callback_key: str, worker: str | None) -> None:
        """Record that the attempt with this key was none; `worker` is the Cog server that may have it still."""

        def waiting(old: Prediction) -> Prediction:
            if old.callback_key != callback_key:
                return old
            return dataclasses.replace(old, worker=worker, attempts=old.attempts - 1)

        await self._change(prediction_id, waiting)

    async def _change(self, prediction_id: str, change: Callable[[Prediction], Prediction]) -> Prediction | None:
        def work(connection: sa.Connection) -> tuple[Prediction | None, bool]:
            chosen = sa.select(predictions).where(predictions.c.id == prediction_id).with_for_update()
            row = connection.execute(chosen).mappings().one_or_none()
            if row is None:
                return None, False
            old = Prediction(**row)
            if old.has_ended:
                return old, False
            new = change(old)
            if new == old:
                return old, False
            new = dataclasses.replace(new, revision=old.revision + 1)
            changes = {name: value for name, value in dataclasses.asdict(new).items() if value != getattr(old, name)}
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
        """Return the events of a stream from number `from_seq` on."""

        def work(connection: sa.Connection) -> list[Event]:
            query = (
                sa.select(events.c.seq, events.c.kind, events.c.data, events.c.at)
                .where(events.c.prediction_id == prediction_id, events.c.seq >= from_seq)
                .order_by(events.c.seq)
            )
            return [Event(*row) for row in connection.execute(query)]

        return await self.database.read(work)


def _with_times(new: Prediction) -> Prediction:
    """Return it with the times that follow from its status."""
    moment = now()
    if new.status == "processing" and new.started_at is None:
        new = dataclasses.replace(new, started_at=moment)
    if new.has_ended:
        metrics = dict(new.metrics or {})
        metrics.setdefault("predict_time", 0.0 if new.started_at is None else (moment - new.started_at) / 1e6)
        metrics["total_time"] = (moment - new.created_at) / 1e6
        new = dataclasses.replace(new, completed_at=moment, metrics=metrics)
    return new
