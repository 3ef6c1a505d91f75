"""The playground: static files of the package, which load nothing from other servers and run no scripts but their own.

The page is a client of the public API. It needs no token, and asks for the one that it sends.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from predictions_api.errors import not_found

FILES: Final = Path(__file__).parents[1] / "playground"
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS: Final = {
    "cache-control": "no-cache",  # browsers ask each time whether a file has changed
    "content-security-policy": "; ".join(
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
            "img-src 'self' blob: data:; media-src 'self' blob: data:",
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "require-trusted-types-for 'script'; trusted-types readme",
        )
    ),
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.get("/playground/{name}")
def playground(request: Request, name: str = "index.html") -> Response:
    """Return a file of the page, by default its HTML."""
    path = FILES / name
    if not path.is_file():
        raise not_found()
    content, headers = path.read_bytes(), HEADERS
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers = gzip.compress(content), {**HEADERS, "content-encoding": "gzip"}
    return Response(content, headers=headers, media_type=TYPES[path.suffix])
