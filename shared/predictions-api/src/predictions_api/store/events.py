"""The events of a prediction's stream: what each change added, in the order in which readers receive it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from predictions_api.store.database import events, now, without_nul

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from predictions_api.store.predictions import Prediction


@dataclass(frozen=True)
class Event:
    """One event of a stream. `data` is text for `output` and `logs`, JSON for `error` and `done`."""

    seq: int
    kind: str
    data: str
    at: int


def add_events(connection: sa.Connection, old: Prediction, new: Prediction) -> None:
    entries: list[tuple[str, str]] = []
    if new.logs != old.logs:  # a new attempt starts new logs
        entries.append(("logs", new.logs[len(old.logs) if new.logs.startswith(old.logs) else 0 :]))
    entries += [
        ("output", without_nul(item) if isinstance(item, str) else json.dumps(item))
        for item in _new_outputs(old.output, new.output)
    ]
    if new.has_ended:
        if new.status == "failed":
            entries.append(("error", json.dumps({"detail": new.error or ""})))
        reason = {"failed": "error", "canceled": "canceled", "aborted": "canceled"}.get(new.status)
        entries.append(("done", json.dumps({"reason": reason} if reason else {})))
    if not entries:
        return
    last = connection.scalar(sa.select(sa.func.max(events.c.seq)).where(events.c.prediction_id == new.id))
    first = 0 if last is None else int(last) + 1
    moment = now()
    connection.execute(
        sa.insert(events),
        [
            {"prediction_id": new.id, "seq": first + index, "kind": kind, "data": data, "at": moment}
            for index, (kind, data) in enumerate(entries)
        ],
    )


def _new_outputs(old: Any, new: Any) -> Sequence[Any] | Iterable[Any]:
    """Return the outputs that `old` does not have yet. An iterator's output is a growing list."""
    if new is None:
        return []
    if isinstance(new, list):
        return new[len(old) :] if isinstance(old, list) else new
    return [] if new == old else [new]
