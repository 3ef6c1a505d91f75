"""What a caller of the API did wrong, or what the server cannot do now, as RFC 7807 bodies in Replicate's words.

A route raises Problem, and the application turns it into an `application/problem+json` answer. Failures of a prediction
are none of these: they are recorded on the prediction, which is answered with 200.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Problem(Exception):
    """An answer with an error status; `title` is None where Replicate has none, `fields` are further members."""

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
    """Return the 404 that Replicate gives for anything unknown."""
    return Problem(404, "The requested resource could not be found.")


def unavailable(why: str, *, retry_after: int = 2) -> Problem:
    """Return a 503 that asks the caller to come again in `retry_after` seconds."""
    return Problem(503, why, title="Service unavailable", headers={"Retry-After": str(retry_after)})
