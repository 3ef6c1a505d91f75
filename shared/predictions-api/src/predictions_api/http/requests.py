"""Read requests: the JSON body within limits, the headers Prefer and Cancel-After, and the base URL."""

from __future__ import annotations

import asyncio
import math
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request

from predictions_api.errors import Problem
from predictions_api.strict_json import MAX_ESCAPES, MAX_VALUES, parse

if TYPE_CHECKING:
    from starlette.types import Message

    from predictions_api.run.service import Service

THREAD_THRESHOLD: Final = 2**20  # bytes; larger bodies are parsed in a thread
# Bytes. The JavaScript client sends up to 10 MB of files within the input, which is 13.4 MB in base64.
BODY_LIMIT: Final = 32 * 2**20
CALLBACK_LIMIT: Final = 2**30  # callbacks contain all outputs of a prediction in base64
CALLBACK_VALUES: Final = CALLBACK_LIMIT // 32
BODY_TIMEOUT: Final = 60.0
MAX_WAIT: Final = 60
MIN_LIFETIME: Final = 5  # seconds; from Replicate's documentation
MAX_LIFETIME: Final = 366 * 24 * 3600
_WAIT: Final = re.compile(r"wait(?:\s*=\s*\"?(\d{1,9}(?:\.\d{1,9})?)\"?)?", re.IGNORECASE)
_DURATION: Final = re.compile(r"(?=\d)(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?")


async def read_json(request: Request, *, limit: int = BODY_LIMIT, max_values: int = MAX_VALUES) -> Any:
    """Return the JSON value of a request's body.

    | Problem | raised for |
    |---|---|
    | 400 | JSON that `strict_json.parse` refuses |
    | 408 | a body that takes more than a minute |
    | 413 | more than `limit` bytes |
    | 415 | another content type, as foreign web pages may send those without a CORS preflight |
    """
    if "application/json" not in content_types(request):
        content_type = ", ".join(content_types(request)) or "missing"
        raise Problem(415, f"The content type is {content_type[:100]}; send application/json")
    body = await read_body(request, limit)
    parse_body = partial(parse_json, body, "The request body", max_values=max_values)
    return parse_body() if len(body) <= THREAD_THRESHOLD else await asyncio.to_thread(parse_body)


def parse_json(text: bytes, name: str, *, max_values: int = MAX_VALUES) -> Any:
    """Return the value of a JSON text. Raises Problem 400, which calls the text `name`, if it is invalid."""
    try:
        return parse(text, max_values=max_values, max_escapes=max(max_values, MAX_ESCAPES))
    except ValueError as error:
        raise Problem(400, f"{name} is not valid JSON: {error}", title="Malformed request") from None


async def read_body(request: Request, limit: int) -> bytes:
    """Return a request's body. Raises Problem 408 if it takes more than a minute, and 413 above `limit` bytes."""
    text = f"The body has more than {limit} bytes; upload files with POST /v1/files and give their URLs"
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await with_limit(request, limit, Problem(413, text)).body()
    except TimeoutError:
        raise Problem(408, f"The body did not arrive within {BODY_TIMEOUT:.0f} seconds") from None


def with_limit(request: Request, limit: int, too_large: Problem, *, stall_timeout: float | None = None) -> Request:
    """Return a request whose body raises `too_large` above `limit` bytes. A larger Content-Length raises it at once.

    The body raises TimeoutError after `stall_timeout` seconds without a byte.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large
    size = 0

    async def receive() -> Message:
        nonlocal size
        async with asyncio.timeout(stall_timeout):
            message = await request.receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


def content_types(request: Request) -> list[str]:
    """Return the media types of a request without parameters. Some clients send the header twice, or two in one.

    What follows the first semicolon is a parameter, also if it looks like a media type: browsers send
    `text/plain;a=b, application/json` without a preflight.
    """
    values = request.headers.getlist("content-type")
    types = [part.strip().lower() for value in values for part in value.partition(";")[0].split(",")]
    return list(filter(None, types))


def seconds_to_wait(prefer: str) -> int | None:
    """Return the seconds of `Prefer: wait`, rounded up and at most 60, or None. Others are ignored (RFC 7240)."""
    for preference in prefer.split(","):
        match = _WAIT.fullmatch(preference.partition(";")[0].strip())
        if match:
            seconds = MAX_WAIT if match[1] is None else min(math.ceil(float(match[1])), MAX_WAIT)
            return seconds or None
    return None


def seconds_to_live(cancel_after: str | None) -> int | None:
    """Return the seconds of `Cancel-After`: 90, 90s, 5m or 1h30m45s. Raises Problem 422 for others and below 5."""
    if cancel_after is None:
        return None
    match = _DURATION.fullmatch(cancel_after.strip())
    seconds = (
        sum(int(count or 0) * unit for count, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if not MIN_LIFETIME <= seconds <= MAX_LIFETIME:
        raise Problem(
            422,
            f"Cancel-After is {cancel_after[:32]!r}; give 5 seconds to 366 days, like 90s, 5m or 1h30m45s",
            title="Invalid Cancel-After header",
        )
    return seconds


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def base_url(request: Request) -> str:
    """Return scheme://host[:port] without a trailing slash, from the settings or else from the request."""
    return (service_of(request).settings.public_url or f"{request.url.scheme}://{request.url.netloc}").rstrip("/")
