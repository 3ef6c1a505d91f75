"""Errors of requests, answered as RFC 7807 problems with Replicate's texts. Failures of predictions are not errors."""

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
        title = {"title": self.title} if self.title else {}
        return {**title, "detail": self.detail, "status": self.status, **self.fields}


class StartFault(Exception):
    """The server cannot start. The text is one line: the reason, and what to do."""


def not_found() -> Problem:
    """Return Replicate's 404 for unknown paths and ids."""
    return Problem(404, "The requested resource could not be found.")


def invalid_fields(faults: list[dict[str, str]]) -> Problem:
    """Return a 422 with one line for each fault. The keys of a fault: type, field, description."""
    lines = [": ".join(filter(None, (fault["field"], fault["description"]))) for fault in faults]
    detail = "".join(f"- {line}\n" for line in lines)
    return Problem(422, detail, title="Input validation failed", fields={"invalid_fields": faults})


def unavailable(detail: str, *, retry_after: int = 2) -> Problem:
    """Return a 503 that asks the caller to try again in `retry_after` seconds."""
    return Problem(503, detail, title="Service unavailable", headers={"Retry-After": str(retry_after)})
