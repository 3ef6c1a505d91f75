"""Queries on all predictions, for recovery at the start, deadlines, metrics and the removal of old data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from predictions_api.store.database import deliveries, events, is_unended, now, predictions
from predictions_api.store.predictions import END_STATUSES, Prediction

if TYPE_CHECKING:
    from predictions_api.store.database import Database

UNENDED_STATUSES = ("starting", "processing")


async def list_unended(database: Database) -> list[tuple[str, str, bool]]:
    """Return (id, model, whether an input begins like a URL) of all predictions that have not ended, oldest first."""
    has_url = sa.cast(predictions.c.input, sa.Text).like('%"http%')
    query = sa.select(predictions.c.id, predictions.c.model, has_url).where(predictions.c.status.in_(UNENDED_STATUSES))
    rows = await database.rows(query.order_by(predictions.c.created_at, predictions.c.id))
    return [(row[0], row[1], bool(row[2])) for row in rows]


async def list_overdue(database: Database) -> list[Prediction]:
    """Return the predictions that have not ended although their deadline has passed."""
    query = sa.select(predictions).where(predictions.c.deadline <= now(), is_unended)
    return [Prediction(**row._mapping) for row in await database.rows(query)]


async def list_undelivered(database: Database) -> list[str]:
    """Return the ids of ended predictions whose webhook has no recorded `completed` call."""
    delivered = sa.exists().where(deliveries.c.prediction_id == predictions.c.id, deliveries.c.event == "completed")
    query = sa.select(predictions.c.id).where(
        predictions.c.webhook.is_not(None),
        predictions.c.status.in_(END_STATUSES),
        predictions.c.data_removed.is_(False),
        ~delivered,
    )
    return [row.id for row in await database.rows(query)]


async def list_unserved(database: Database, model: str, *, since: int) -> list[Prediction]:
    """Return the predictions of a model that have waited since that time, if none has run since, on any server."""
    others = predictions.alias()
    has_run = (others.c.completed_at > since) & others.c.started_at.is_not(None)
    ran = sa.exists().where(others.c.model == model, (others.c.status == "processing") | has_run)
    conditions = (predictions.c.model == model, predictions.c.status == "starting", predictions.c.created_at <= since)
    return [Prediction(**row._mapping) for row in await database.rows(sa.select(predictions).where(*conditions, ~ran))]


async def count_predictions(database: Database, model: str) -> int:
    """Return the number of predictions of a model, also of those whose data is removed."""
    query = sa.select(sa.func.count()).select_from(predictions).where(predictions.c.model == model)
    return int((await database.rows(query))[0][0])


async def count_unended(database: Database) -> dict[tuple[str, str], int]:
    """Return the number of waiting and of running predictions by model and status. Models without any are missing."""
    query = sa.select(predictions.c.model, predictions.c.status, sa.func.count())
    query = query.where(predictions.c.status.in_(UNENDED_STATUSES)).group_by(predictions.c.model, predictions.c.status)
    return {(model, status): count for model, status, count in await database.rows(query)}


async def list_expired(database: Database, *, ended_before: int) -> list[str]:
    """Return the ids of up to 1000 predictions that ended before that time and still have their data."""
    conditions = (predictions.c.data_removed.is_(False), predictions.c.completed_at < ended_before)
    query = sa.select(predictions.c.id).where(*conditions).limit(1000)
    return [row.id for row in await database.rows(query)]


async def remove_data(database: Database, ids: list[str]) -> None:
    """Remove inputs, outputs, logs and webhooks of predictions that have ended."""

    def work(connection: sa.Connection) -> None:
        for table in (events, deliveries):
            connection.execute(sa.delete(table).where(table.c.prediction_id.in_(ids)))
        change = sa.update(predictions).values(
            input={}, output=sa.null(), logs="", webhook=None, data_removed=True, revision=predictions.c.revision + 1
        )
        connection.execute(change.where(predictions.c.id.in_(ids)))

    await database.run(work)
