"""ASGI middleware before the routes: path prefixes, tokens, other origins, and a log line for each request.

The same paths exist below /v1 (as at Replicate), below /replicate/v1 (as at a reseller) and without a prefix.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.responses import Response

from predictions_api.errors import Problem, not_found
from predictions_api.http.access import is_open, is_preflight, is_shared, preflight_headers, shared_headers
from predictions_api.http.problems import problem_response
from predictions_api.settings import LOOPBACK

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from predictions_api.http.tokens import Tokens
    from predictions_api.metrics import Metrics

METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY"})
LOG = logging.getLogger("predictions_api.requests")
PREFIX: Final = re.compile(r"^(?:/replicate)?/v1(?=/|$)")


class Gate:
    """Checks the token and passes the request to `app`, with the path prefix removed."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens, public_url: str | None, metrics: Metrics) -> None:
        self.app = app
        self.tokens = tokens
        self.hosts = {*LOOPBACK, urlsplit(public_url or "//localhost").hostname}
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = PREFIX.sub("", scope["path"]) or "/"
        scope = {**scope, "path": path, "raw_path": path.encode()}
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        added_headers = shared_headers(headers) if is_shared(path) else []
        began, status = time.monotonic(), 500

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *added_headers]}
            await send(message)

        try:
            app: ASGIApp = self.app
            refusal = self._refusal(path, headers)
            if refusal is not None:
                app = problem_response(refusal)
            elif added_headers and is_preflight(scope["method"], headers):
                app = Response(status_code=204, headers=preflight_headers(headers))
            await app(scope, receive, send_and_record)
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
                extra={"prediction": scope.get("path_params", {}).get("prediction_id", "")},
            )

    def _refusal(self, path: str, headers: dict[str, bytes]) -> Problem | None:
        if "\0" in path:  # PostgreSQL rejects NUL in text
            return not_found()
        tokens = self.tokens.current()
        if is_open(path):
            return None
        if not tokens:
            # Bound to loopback. The Host header reveals web pages that use DNS rebinding to reach 127.0.0.1.
            # The Origin header reveals pages that send a form or a file, for which browsers do not ask before.
            host = headers.get("host", b"localhost").decode("latin-1")
            if not self._is_local("//" + host):
                return Problem(
                    403, "Without a token the server accepts only localhost as its name; set a token or a public URL"
                )
            if not self._is_local(headers.get("origin", b"//localhost").decode("latin-1")):
                return Problem(
                    403, "Without a token the server accepts no requests of web pages of other origins; set a token"
                )
            return None
        scheme, _, token = headers.get("authorization", b"").partition(b" ")
        if not token.strip():
            return Problem(401, "You did not pass an authentication token", title="Unauthenticated")
        matches = [hmac.compare_digest(token.strip(), valid) for valid in tokens]  # all, for a constant time
        if scheme.lower() not in (b"bearer", b"token") or not any(matches):
            return Problem(401, "You did not pass a valid authentication token", title="Unauthenticated")
        return None

    def _is_local(self, url: str) -> bool:
        try:
            return urlsplit(url).hostname in self.hosts
        except ValueError:  # an invalid IPv6 address
            return False
