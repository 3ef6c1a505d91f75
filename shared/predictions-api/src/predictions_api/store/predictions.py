"""A prediction, as a row of the table of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from predictions_api.store.database import random_key

END_STATUSES: Final = frozenset({"succeeded", "failed", "canceled", "aborted"})


@dataclass(frozen=True)
class Prediction:
    """A row of the table. Times are microseconds since 1970, UTC."""

    id: str
    created_at: int
    model: str
    version: str
    input: dict[str, Any]
    callback_key: str
    source: str = "api"
    status: str = "starting"
    output: Any = None
    logs: str = ""
    error: str | None = None
    metrics: dict[str, Any] | None = None
    started_at: int | None = None
    completed_at: int | None = None
    deadline: int | None = None
    webhook: str | None = None
    webhook_events_filter: list[str] | None = None
    revision: int = 0
    data_removed: bool = False
    stream_key: str | None = None
    streams_files: bool = False
    worker: str | None = None
    attempts: int = 0

    @property
    def has_ended(self) -> bool:
        return self.status in END_STATUSES


def new_id() -> str:
    """Return 130 random bits in the form of Replicate's ids since 2024."""
    return random_key(26)
