"""ASGI middleware before the routes: path prefixes, tokens, and a log line for each request.

The same paths exist below /v1 (as at Replicate), below /replicate/v1 (as at a reseller) and without a prefix.
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
# No token needed: health, documentation, and URLs that contain a secret key.
OPEN_PATHS: Final = re.compile(
    r"/|/docs|/health|/openapi\.json|/callbacks/.+|/delivery/.+|/streams/.+|/files/stream-[^/]+|/files/[^/]+/download"
)


class Gate:
    """Checks the token and passes the request to `app`, with the path prefix removed."""

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
            # The pattern of the route, as some paths contain keys.
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"  # bounds the number of labels
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
        if "\0" in path:  # PostgreSQL rejects NUL in text
            return not_found()
        if not self.tokens:
            # Bound to loopback. The Host header reveals web pages that use DNS rebinding to reach 127.0.0.1.
            host = headers.get("host", b"localhost").decode("latin-1")
            if not self._is_local(host) and not OPEN_PATHS.fullmatch(path):
                return Problem(
                    403, "Without a token the server accepts only localhost as its name; set a token or a public URL"
                )
            return None
        if OPEN_PATHS.fullmatch(path):
            return None
        scheme, _, token = headers.get("authorization", b"").partition(b" ")
        if not token.strip():
            return Problem(401, "You did not pass an authentication token", title="Unauthenticated")
        matches = [hmac.compare_digest(token.strip(), valid) for valid in self.tokens]  # all, for a constant time
        if scheme.lower() not in (b"bearer", b"token") or not any(matches):
            return Problem(401, "You did not pass a valid authentication token", title="Unauthenticated")
        return None

    def _is_local(self, host: str) -> bool:
        try:
            return urlsplit("//" + host).hostname in self.hosts
        except ValueError:  # an invalid IPv6 address
            return False
