"""What stands before the routes, as plain ASGI: prefixes, tokens, and a line in the log for each request.

The same paths exist under /v1 (Replicate's), /replicate/v1 (a reseller's, in some documents) and without a prefix.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from predictions_api.errors import Problem, not_found
from predictions_api.http.problems import problem_response
from predictions_api.settings import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from predictions_api.metrics import Metrics

METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY"})
LOG = logging.getLogger("predictions_api.requests")
PREFIX: Final = re.compile(r"^(?:/replicate)?/v1(?=/|$)")
# Open to everyone: health and documentation; and URLs that are themselves the key, as nobody can guess them.
OPEN_PATHS: Final = re.compile(
    r"/|/docs|/health|/openapi\.json|/callbacks/.+|/delivery/.+|/streams/.+|/files/stream-[^/]+|/files/[^/]+/download"
)


class Gate:
    """Lets a request through to `app`, with its path as the routes know it."""

    def __init__(self, app: ASGIApp, *, tokens: Iterable[str], public_url: str | None, metrics: Metrics) -> None:
        self.app = app
        self.tokens = [token.encode() for token in tokens]
        self.hosts = {*LOOPBACK, urlsplit(public_url or "").hostname}
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = PREFIX.sub("", scope["path"]) or "/"
        scope = {**scope, "path": path, "raw_path": path.encode()}
        began, status = time.monotonic(), 500

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
            refusal = self._refusal(path, headers)
            if refusal is not None:
                await problem_response(refusal)(scope, receive, send_and_record)
            else:
                await self.app(scope, receive, send_and_record)
        finally:
            # The route's pattern, not the path: some paths are keys.
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"  # anyone may send any word
            self.metrics.request_count.labels(method, route, status).inc()
            LOG.info(
                "%s %s %d in %.0f ms",
                method,
                route,
                status,
                (time.monotonic() - began) * 1000,
                extra={"prediction": scope.get("path_params", {}).get("prediction_id")},
            )

    def _refusal(self, path: str, headers: dict[str, bytes]) -> Problem | None:
        if "\0" in path:  # no id has one, and PostgreSQL takes none
            return not_found()
        if not self.tokens:
            # Bound to loopback. A web page whose name was pointed at 127.0.0.1 is told by the name that it asked for.
            host = headers.get("host", b"localhost").decode("latin-1")
            if not self._is_local(host) and not OPEN_PATHS.fullmatch(path):
                return Problem(
                    403, "Without a token the server answers only to localhost; give it one, or a public URL"
                )
            return None
        if OPEN_PATHS.fullmatch(path):
            return None
        scheme, _, token = headers.get("authorization", b"").partition(b" ")
        if not token.strip():
            return Problem(401, "You did not pass an authentication token", title="Unauthenticated")
        known = [hmac.compare_digest(token.strip(), ours) for ours in self.tokens]  # all, whichever fits
        if scheme.lower() not in (b"bearer", b"token") or not any(known):
            return Problem(401, "You did not pass a valid authentication token", title="Unauthenticated")
        return None

    def _is_local(self, host: str) -> bool:
        try:
            return urlsplit("//" + host).hostname in self.hosts
        except ValueError:  # half of an IPv6 address
            return False
