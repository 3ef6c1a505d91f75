"""The two headers that say how long: `Prefer: wait[=n]` for the answer, `Cancel-After` for the prediction."""

from __future__ import annotations

import re
from typing import Final

from predictions_api.errors import Problem

LONGEST_WAIT: Final = 60
SHORTEST_LIFE: Final = 5  # seconds, as Replicate's documentation says
LONGEST_LIFE: Final = 366 * 24 * 3600
_DURATION: Final = re.compile(r"(?=\d)(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?")


def seconds_to_wait(prefer: str) -> int | None:
    """Return the seconds of a `Prefer: wait`, 60 at most; None without. Others are ignored (RFC 7240)."""
    for preference in prefer.split(","):
        found = re.fullmatch(r"wait(?:\s*=\s*\"?(\d{1,9})\"?)?", preference.partition(";")[0].strip(), re.IGNORECASE)
        if found:
            seconds = LONGEST_WAIT if found[1] is None else min(int(found[1]), LONGEST_WAIT)
            return seconds or None
    return None


def seconds_to_live(cancel_after: str | None) -> int | None:
    """Return the seconds of a `Cancel-After`: 90, 90s, 5m, 1h30m45s; Problem 422 for others, and below 5."""
    if cancel_after is None:
        return None
    found = _DURATION.fullmatch(cancel_after.strip())
    seconds = (
        sum(int(count or 0) * unit for count, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    )
    if not SHORTEST_LIFE <= seconds <= LONGEST_LIFE:
        raise Problem(
            422,
            f"Cancel-After is {cancel_after[:32]!r}; give a duration like 90s, 5m or 1h30m45s, 5 seconds to 366 days",
            title="Invalid Cancel-After header",
        )
    return seconds
