"""Read what a request says: its JSON body within bounds, how long it waits, and by which address it came."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from predictions_api.errors import Problem
from predictions_api.http.validation import parse_json

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection, Request

BYTES_PER_VALUE: Final = 32  # of the limit: a million values in a client's body
THREAD_THRESHOLD: Final = 2**20  # bytes from which on a body is read beside the event loop
# Bytes. The JavaScript client puts up to 10 MB of files into an input, in base64 13.4 MB.
BODY_LIMIT: Final = 32 * 2**20
CALLBACK_LIMIT: Final = 2**30  # of Cog's own calls, which carry all outputs of a prediction in base64
BODY_TIMEOUT: Final = 60.0
MAX_WAIT: Final = 60
MIN_LIFE: Final = 5  # seconds, as Replicate's documentation says
MAX_LIFE: Final = 366 * 24 * 3600
_DURATION: Final = re.compile(r"(?=\d)(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?")


async def read_json(request: Request, *, limit: int = BODY_LIMIT) -> Any:
    """Return the JSON value of a request's body.

    Raises Problem 415 for another content type (a web page of someone else's may send those without asking), 413 for
    more than `limit` bytes, 408 for a body that takes more than a minute, 400 for malformed JSON, and for one that has
    more commas and brackets than one for each 32 bytes of `limit`: small values take far more memory than text.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Problem(415, f"The content type is {content_type or 'missing'}; send application/json")
    body = await _read(request, limit)
    max_values = limit // BYTES_PER_VALUE
    if sum(map(body.count, (b",", b"[", b"{"))) > max_values:
        raise Problem(
            400, f"The body has more than {max_values} commas and opening brackets; upload a file and give its URL"
        )
    return parse_json(body) if len(body) <= THREAD_THRESHOLD else await asyncio.to_thread(parse_json, body)


async def _read(request: Request, limit: int) -> bytes:
    too_large_problem = Problem(
        413, f"The body has more than {limit} bytes; upload files with POST /v1/files and give their URLs"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large_problem
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large_problem
                parts.append(part)
    except TimeoutError:
        raise Problem(408, f"The body did not come within {BODY_TIMEOUT:.0f} seconds") from None
    return b"".join(parts)


def seconds_to_wait(prefer: str) -> int | None:
    """Return the seconds of a `Prefer: wait`, 60 at most; None without. Others are ignored (RFC 7240)."""
    for preference in prefer.split(","):
        found = re.fullmatch(r"wait(?:\s*=\s*\"?(\d{1,9})\"?)?", preference.partition(";")[0].strip(), re.IGNORECASE)
        if found:
            seconds = MAX_WAIT if found[1] is None else min(int(found[1]), MAX_WAIT)
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
    if not MIN_LIFE <= seconds <= MAX_LIFE:
        raise Problem(
            422,
            f"Cancel-After is {cancel_after[:32]!r}; give a duration like 90s, 5m or 1h30m45s, 5 seconds to 366 days",
            title="Invalid Cancel-After header",
        )
    return seconds


def base_url(request: HTTPConnection) -> str:
    """Return scheme://host[:port] without a slash at the end: as configured, else as the request came."""
    public_url: str | None = request.app.state.settings.public_url
    if public_url:
        return public_url.rstrip("/")
    return f"{request.url.scheme}://{request.url.netloc}"
