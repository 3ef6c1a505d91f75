"""Who may use which path: the table of paths without a token, and those for web pages of other origins."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# Path -> whether web pages of other origins may read it. All other paths need a token, which no page should have.
OPEN_PATHS: Final = {
    r"/": False,
    r"/playground/[^/]+": False,
    r"/docs": False,
    r"/openapi\.json": False,
    r"/health": False,
    r"/callbacks/.+": False,
    # The URL has a secret key or a signature.
    r"/delivery/.+": True,
    r"/streams/.+": True,
    r"/files/stream-[^/]+": True,
    r"/files/[^/]+/download": True,
    # The files of examples are for everybody.
    r"/models/[^/]+/[^/]+/examples/[^/]+": True,
}
_OPEN: Final = re.compile("|".join(OPEN_PATHS))
_SHARED: Final = re.compile("|".join(path for path, is_shared in OPEN_PATHS.items() if is_shared))
_EXPOSED: Final = b"Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag"
_PREFLIGHT_AGE: Final = "7200"  # seconds, Chromium's maximum


def is_open(path: str) -> bool:
    """Return whether a path needs no token."""
    return _OPEN.fullmatch(path) is not None


def is_shared(path: str) -> bool:
    """Return whether web pages of other origins may read a path."""
    return _SHARED.fullmatch(path) is not None


def is_preflight(method: str, headers: Mapping[str, bytes]) -> bool:
    """Return whether a browser asks if a page may send a request."""
    return method == "OPTIONS" and "access-control-request-method" in headers


def shared_headers(headers: Mapping[str, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers of every answer of a shared path. `headers`: of the request.

    A page may also send credentials, for which browsers require its own origin instead of *. A page cannot use an
    answer that the browser has stored without an Origin, hence Vary.
    """
    origin = headers.get("origin")
    result = [(b"vary", b"Origin"), (b"access-control-expose-headers", _EXPOSED)]
    if origin is None:
        return [*result, (b"access-control-allow-origin", b"*")]
    return [*result, (b"access-control-allow-origin", origin), (b"access-control-allow-credentials", b"true")]


def preflight_headers(headers: Mapping[str, bytes]) -> dict[str, str]:
    """Return the headers that allow a page to read a shared path with any headers of its own."""
    return {
        "access-control-allow-methods": "GET, HEAD",
        "access-control-allow-headers": headers.get("access-control-request-headers", b"").decode("latin-1"),
        "access-control-max-age": _PREFLIGHT_AGE,
    }
