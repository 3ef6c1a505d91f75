"""Lists in pages: where a page begins is a row, not a number, so rows that are added meanwhile shift nothing.

A cursor is the position of that row in base64, opaque to clients, in the style of the cursors that Replicate gives.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode

from predictions_api.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE_SIZE: Final = 100  # rows a page, as Replicate's
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Cursor:
    """The rows older than the one at (created_at, id); with `newer`, those that are newer."""

    created_at: int
    id: str
    newer: bool = False

    def __str__(self) -> str:
        members = {"p": f"{self.created_at}.{self.id}", **({"r": "1"} if self.newer else {})}
        return base64.urlsafe_b64encode(urlencode(members).encode()).decode()

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor; raises Problem 400 for what is none."""
        try:
            members = parse_qs(base64.b64decode(text, altchars=b"-_", validate=True).decode("ascii"))
            moment, _, row = members["p"][0].partition(".")
            cursor = cls(int(moment), row, members.get("r") == ["1"])
        except (ValueError, KeyError, binascii.Error):
            cursor = None
        if cursor is None or not cursor.id.isalnum() or not 0 <= cursor.created_at < 2**62:
            raise Problem(400, "The cursor is not one that this server gave; follow next or previous as they are")
        return cursor


def page_url(base: str, path: str, cursor: Cursor, query: Mapping[str, str]) -> str:
    """Return the URL of another page of the same list."""
    return f"{base}/v1{path}?{urlencode({'cursor': str(cursor), **query})}"


def parse_time(name: str, text: str) -> int:
    """Return an ISO 8601 time as microseconds since 1970, UTC where it names no zone; raises Problem 422."""
    try:
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise Problem(
            422, f"{name}={text[:64]!r} is no ISO 8601 time; give one like 2026-01-31T12:00:00Z", title="Invalid query"
        ) from None
