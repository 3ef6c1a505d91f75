"""Request bodies, read within bounds: so many bytes, so much time, JSON and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from predictions_api.errors import Problem
from predictions_api.validation import parse_json

if TYPE_CHECKING:
    from starlette.requests import Request

LIMIT: Final = 32 * 2**20  # bytes: the JavaScript client puts up to 10 MB of files into an input, in base64 13.4 MB
CALLBACK_LIMIT: Final = 2**30  # of Cog's own calls, which carry all outputs of a prediction in base64
SECONDS: Final = 60.0


async def read_json(request: Request, *, limit: int = LIMIT) -> Any:
    """Return the JSON value of a request's body.

    Raises Problem 415 for another content type (a web page of someone else's may send those without asking), 413 for
    more than `limit` bytes, 408 for a body that takes more than a minute, 400 for malformed JSON.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Problem(415, f"The content type is {content_type or 'missing'}; send application/json")
    return parse_json(await _read(request, limit))


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
