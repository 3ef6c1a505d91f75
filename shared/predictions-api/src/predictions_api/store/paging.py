"""Pages of lists. A page starts at a row, not at an offset, so rows added meanwhile do not shift pages."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode

import sqlalchemy as sa

from predictions_api.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE_SIZE: Final = 100  # as at Replicate
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Cursor:
    """The rows older than (created_at, id), or newer if `newer` is set. As text it looks like Replicate's cursors."""

    created_at: int
    id: str
    newer: bool = False

    def __str__(self) -> str:
        members = {"p": f"{self.created_at}.{self.id}", **({"r": "1"} if self.newer else {})}
        return base64.urlsafe_b64encode(urlencode(members).encode()).decode()

    def condition(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """Return the condition on the rows of a table with the columns created_at and id."""
        columns = sa.tuple_(table.c.created_at, table.c.id)
        position = sa.tuple_(sa.literal(self.created_at), sa.literal(self.id))
        return columns > position if self.newer else columns < position

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor that `text` encodes. Raises Problem 400 if it is invalid."""
        try:
            members = parse_qs(base64.b64decode(text, altchars=b"-_", validate=True).decode("ascii"))
            moment, _, row = members["p"][0].partition(".")
            cursor = cls(int(moment), row, members.get("r") == ["1"])
        except (ValueError, KeyError, binascii.Error):
            cursor = None
        if cursor is None or not cursor.id.isalnum() or not 0 <= cursor.created_at < 2**62:
            raise Problem(400, "The cursor is invalid; use the URLs in next and previous unchanged")
        return cursor


def page_url(base: str, path: str, cursor: Cursor, query: Mapping[str, str]) -> str:
    return f"{base}/v1{path}?{urlencode({'cursor': str(cursor), **query})}"


def parse_time(name: str, text: str) -> int:
    """Return an ISO 8601 time as microseconds since 1970. UTC if it has no zone. Raises Problem 422."""
    try:
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise Problem(
            422, f"{name}={text[:64]!r} is not an ISO 8601 time; give e.g. 2026-01-31T12:00:00Z", title="Invalid query"
        ) from None
