"""Request bodies, read within bounds: so many bytes, so much time, JSON and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from predictions_api.errors import Problem
from predictions_api.validation import parse_json

if TYPE_CHECKING:
    from starlette.requests import Request

BYTES_A_VALUE: Final = 32  # of the limit: a million values in a client's body
IN_A_THREAD: Final = 2**20  # bytes from which on a body is read beside the event loop
LIMIT: Final = 32 * 2**20  # bytes: the JavaScript client puts up to 10 MB of files into an input, in base64 13.4 MB
CALLBACK_LIMIT: Final = 2**30  # of Cog's own calls, which carry all outputs of a prediction in base64
SECONDS: Final = 60.0


async def read_json(request: Request, *, limit: int = LIMIT) -> Any:
    """Return the JSON value of a request's body.

    Raises Problem 415 for another content type (a web page of someone else's may send those without asking), 413 for
    more than `limit` bytes, 408 for a body that takes more than a minute, 400 for malformed JSON, and for one that has
    more commas and brackets than one for each 32 bytes of `limit`: small values take far more memory than text.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Problem(415, f"The content type is {content_type or 'missing'}; send application/json")
    body = await _read(request, limit)
    most = limit // BYTES_A_VALUE
    if sum(map(body.count, (b",", b"[", b"{"))) > most:
        raise Problem(400, f"The body has more than {most} commas and opening brackets; upload a file and give its URL")
    return parse_json(body) if len(body) <= IN_A_THREAD else await asyncio.to_thread(parse_json, body)


async def _read(request: Request, limit: int) -> bytes:
    too_large = Problem(
        413, f"The body has more than {limit} bytes; upload files with POST /v1/files and give their URLs"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Problem(408, f"The body did not come within {SECONDS:.0f} seconds") from None
    return b"".join(parts)
