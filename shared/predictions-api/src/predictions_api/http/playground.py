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
from predictions_api.http.requests import service_of

FILES: Final = Path(__file__).parents[1] / "playground"
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS: Final = {
    "cache-control": "no-cache",  # browsers ask each time whether a file has changed
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}

# {source}: the bucket to which URLs of files are redirected, if there is one.
POLICY: Final = "; ".join(
    (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{source}",
        "img-src 'self' blob: data:{source}; media-src 'self' blob: data:{source}",
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "require-trusted-types-for 'script'; trusted-types readme",
    )
)

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.get("/playground/{name}")
def playground(request: Request, name: str = "index.html") -> Response:
    """Return a file of the page, by default its HTML."""
    path = FILES / name
    if not path.is_file():
        raise not_found()
    source = service_of(request).files.content.source
    content, headers = path.read_bytes(), {**HEADERS, "content-security-policy": POLICY.format(source=source)}
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["content-encoding"] = gzip.compress(content), "gzip"
    return Response(content, headers=headers, media_type=TYPES[path.suffix])
