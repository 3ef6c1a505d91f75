"""An HTTP server on loopback that records webhooks."""

from __future__ import annotations

import json
import queue
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import LocalServer


@dataclass(frozen=True)
class Call:
    """A request that a receiver got, with the time.monotonic() of its arrival."""

    path: str
    headers: dict[str, str]
    body: str
    time: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class WebhookReceiver(LocalServer):
    """A receiver that answers by the first part of a path; a context manager.

    A number there is the status of the answer. `twice-500` answers 500 twice, then 200. `wait` answers 200 once
    `release` is set. Any other path is answered 200.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._calls: list[Call] = []
        self._changed = threading.Condition()
        self._queue: queue.Queue[Call] = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver._record(Call(self.path, headers, body, time.monotonic()))
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", "/200/redirected")
                self.send_header("content-length", "0")
                self.end_headers()

        super().__init__(Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    def _record(self, call: Call) -> int:
        """Record a call and return the status of its answer."""
        self._queue.put(call)
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()
        behaviour = call.path.split("/")[1]
        if behaviour == "wait":
            self.release.wait(60)
        if behaviour == "twice-500":
            return 500 if len(self.calls(call.path)) <= 2 else 200
        return int(behaviour) if behaviour.isdecimal() else 200

    def next(self) -> Call:
        """Return the next call of any path, and wait for it."""
        return self._queue.get(timeout=60)

    def calls(self, path: str) -> list[Call]:
        """Return the calls of a path so far."""
        with self._changed:
            return [call for call in self._calls if call.path == path]

    def wait_for(self, path: str, enough: Callable[[list[Call]], bool]) -> list[Call]:
        """Return the calls of a path once there are enough."""
        with self._changed:
            assert self._changed.wait_for(lambda: enough(self.calls(path)), 60), self._calls
            return self.calls(path)
