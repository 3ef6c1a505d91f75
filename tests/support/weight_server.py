"""An HTTP server of weight files that misbehaves on demand, for the tests of videokit.weights.

In the test's process: `with serve_files(files) as server`, then `server.plan(path, "truncate", 500, ...)` with one
action for each of the next requests for that path; later requests are served normally. As a separate process, which can
be killed: `python weight_server.py PORT FILE PATH LOG [HOLD_AT]`. Both record each request.

    "truncate"      sends half of the promised bytes and closes
    "stall"         sends half, then nothing until the server ends
    "wrong"         sends the right number of wrong bytes
    "whole"         ignores Range and sends all bytes with status 200
    "whole, half"   ignores Range, sends half and closes
    "unannounced"   sends half without Content-Length and closes
    "page"          answers 200 with a page in HTML, as a proxy that requires a sign-in
    "html"          sends the file as text/html
    "other range"   answers 206 with bytes from 0, whatever range was requested
    "http://..."    redirects to an address
    "/..."          redirects to a path
    an integer      answers with this status and no file
    Hold(at)        sends the bytes before `at`, then waits for `Hold.release`
    Some(count)     sends `count` bytes and closes
"""

from __future__ import annotations

import json
import sys
import threading
from collections import defaultdict, deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>"


@dataclass
class Hold:
    """Wait in the middle of a file, at byte `at`, until `release` is set."""

    at: int
    release: threading.Event = field(default_factory=threading.Event)


@dataclass
class Some:
    """Send this number of bytes in a connection."""

    count: int


@dataclass
class Request:
    """One request: its first byte, the number of bytes sent, and its token."""

    path: str
    start: int
    sent: int
    authorization: str | None


class WeightServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes], port: int = 0, log: Path | None = None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.files = dict(files)
        self.log = log
        self.requests: list[Request] = []
        self.ended = threading.Event()
        self._plans: dict[str, deque[str | int | Hold | Some]] = defaultdict(deque)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def plan(self, path: str, *actions: str | int | Hold | Some) -> None:
        self._plans[path].extend(actions)

    def next_action(self, path: str) -> str | int | Hold | Some:
        plan = self._plans[path]
        return plan.popleft() if plan else "serve"


class _Handler(BaseHTTPRequestHandler):
    server: WeightServer

    def do_GET(self) -> None:
        byte_range = self.headers.get("Range")
        start = int(byte_range.removeprefix("bytes=").removesuffix("-")) if byte_range else 0
        request = Request(self.path, start, 0, self.headers.get("Authorization"))
        self.server.requests.append(request)
        action = self.server.next_action(self.path)
        try:
            self._respond(action, start, request)
        except ConnectionError:  # the client closed the connection
            pass
        finally:
            self.close_connection = True

    def _respond(self, action: str | int | Hold | Some, start: int, request: Request) -> None:
        content = self.server.files.get(self.path)
        if isinstance(action, str) and action.startswith(("http://", "/")):
            return self._send_head(302, Location=action)
        if isinstance(action, int):
            return self._send_head(action)
        if action == "page":
            self._send_head(200, Content_Type="text/html; charset=utf-8", Content_Length=str(len(PAGE)))
            self.wfile.write(PAGE)
            return None
        if content is None:
            return self._send_head(404)
        if action in ("whole", "whole, half"):
            start = 0
        elif start and start >= len(content):
            return self._send_head(416, Content_Range=f"bytes */{len(content)}")
        body = content[start:]
        if action == "other range":
            self._send_head(
                206, Content_Range=f"bytes 0-{len(content) - 1}/{len(content)}", Content_Length=str(len(content))
            )
            self.wfile.write(content)
            return None
        if action == "wrong":
            body = bytes(byte ^ 0xFF for byte in body)
        length: dict[str, str] = {} if action == "unannounced" else {"Content_Length": str(len(body))}
        if action == "html":
            length["Content_Type"] = "text/html"
        if start:
            self._send_head(206, Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}", **length)
        else:
            self._send_head(200, **length)
        pause = len(body) // 2 if action in ("truncate", "stall", "unannounced", "whole, half") else len(body)
        if isinstance(action, Hold):
            pause = action.at - start
        if isinstance(action, Some):
            pause = action.count
        # Recorded before the write, because the test may read it before write() returns.
        request.sent = pause
        if self.server.log is not None:
            with self.server.log.open("a") as log:
                log.write(json.dumps(asdict(request)) + "\n")
        self.wfile.write(body[:pause])
        if action == "stall":
            self.server.ended.wait()
        if isinstance(action, Hold):
            action.release.wait()
            request.sent = len(body)
            self.wfile.write(body[pause:])
        return None

    def _send_head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve_files(files: Mapping[str, bytes]) -> Iterator[WeightServer]:
    """Serve `files` (content by URL path) from a thread of this process."""
    with WeightServer(files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    port, file, path, log, *hold_at = sys.argv[1:]
    with WeightServer({path: Path(file).read_bytes()}, int(port), Path(log)) as server:
        server.plan(path, *(Hold(int(at)) for at in hold_at))
        server.serve_forever()
