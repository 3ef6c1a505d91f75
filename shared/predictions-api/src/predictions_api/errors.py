"""Errors of requests, answered as RFC 7807 problems with Replicate's texts.

The application turns a Problem into an `application/problem+json` answer. The failure of a prediction is not a Problem:
it is recorded in the prediction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Problem(Exception):
    """An answer with an error status. `title` is None where Replicate sends none. `fields`: further members."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str | None = None,
        fields: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.title = title
        self.fields = dict(fields or {})
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the members of the JSON body."""
        title = {} if self.title is None else {"title": self.title}
        return {**title, "detail": self.detail, "status": self.status, **self.fields}


def not_found() -> Problem:
    """Return Replicate's 404 for unknown paths and ids."""
    return Problem(404, "The requested resource could not be found.")


def unavailable(detail: str, *, retry_after: int = 2) -> Problem:
    """Return a 503 that asks the caller to try again in `retry_after` seconds."""
    return Problem(503, detail, title="Service unavailable", headers={"Retry-After": str(retry_after)})
