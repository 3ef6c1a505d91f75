"""Queries on all predictions, for recovery at the start, deadlines, metrics and the removal of old data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from predictions_api.store.database import deliveries, events, now, predictions
from predictions_api.store.predictions import END_STATUSES, Prediction

if TYPE_CHECKING:
    from predictions_api.store.database import Database


async def list_unended(database: Database) -> list[tuple[str, str]]:
    """Return (id, model) of all predictions that have not ended, oldest first."""

    def work(connection: sa.Connection) -> list[tuple[str, str]]:
        query = (
            sa.select(predictions.c.id, predictions.c.model)
            .where(predictions.c.status.in_(("starting", "processing")))
            .order_by(predictions.c.created_at, predictions.c.id)
        )
        return [(row.id, row.model) for row in connection.execute(query)]

    return await database.read(work)


async def list_overdue(database: Database) -> list[Prediction]:
    """Return the predictions that have not ended although their deadline has passed."""

    def work(connection: sa.Connection) -> list[Prediction]:
        conditions = (predictions.c.deadline <= now(), predictions.c.status.in_(("starting", "processing")))
        return [Prediction(**row) for row in connection.execute(sa.select(predictions).where(*conditions)).mappings()]

    return await database.read(work)


async def list_undelivered(database: Database) -> list[str]:
    """Return the ids of ended predictions whose webhook has no recorded `completed` call."""

    def work(connection: sa.Connection) -> list[str]:
        delivered = sa.exists().where(deliveries.c.prediction_id == predictions.c.id, deliveries.c.event == "completed")
        return list(
            connection.scalars(
                sa.select(predictions.c.id).where(
                    predictions.c.webhook.is_not(None),
                    predictions.c.status.in_(END_STATUSES),
                    predictions.c.data_removed.is_(False),
                    ~delivered,
                )
            )
        )

    return await database.read(work)


async def count_waiting(database: Database) -> dict[str, int]:
    """Return the number of waiting predictions of each model that has any."""

    def work(connection: sa.Connection) -> dict[str, int]:
        query = (
            sa.select(predictions.c.model, sa.func.count())
            .where(predictions.c.status == "starting")
            .group_by(predictions.c.model)
        )
        return {model: int(count) for model, count in connection.execute(query)}

    return await database.read(work)


async def list_expired(database: Database, *, ended_before: int) -> list[str]:
    """Return the ids of up to 1000 predictions that ended before that time and still have their data."""
    conditions = (predictions.c.data_removed.is_(False), predictions.c.completed_at < ended_before)
    query = sa.select(predictions.c.id).where(*conditions).limit(1000)
    return await database.read(lambda connection: list(connection.scalars(query)))


async def remove_data(database: Database, ids: list[str]) -> None:
    """Remove inputs, outputs, logs and webhooks of predictions that have ended."""

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.delete(events).where(events.c.prediction_id.in_(ids)))
        connection.execute(sa.delete(deliveries).where(deliveries.c.prediction_id.in_(ids)))
        connection.execute(
            sa.update(predictions)
            .where(predictions.c.id.in_(ids))
            .values(
                input={},
                output=sa.null(),
                logs="",
                data_removed=True,
                webhook=None,
                revision=predictions.c.revision + 1,
            )
        )

    await database.run(work)
