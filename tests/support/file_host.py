"""An HTTP server on loopback that serves files, some of them slowly or wrongly."""

from __future__ import annotations

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from local_server import LocalServer


class FileHost(LocalServer):
    """A host whose answer depends on the first part of a path; a context manager.

    | part | answer |
    |---|---|
    | `text` | the second part of the path |
    | `drip` | a byte every 20 ms, without an end until `release` is set; then `dripped` |
    | `endless` | bytes without an end and without a length |
    | `redirect` | a redirect to the query's `to`, with an endless body |
    | `together` | `ok`, once as many requests wait as `together` says |
    | `short` | fewer bytes than announced |
    | `gzip` | a compressed body |
    | a number | that status |
    """

    def __init__(self, together: int = 1) -> None:
        self.requests: list[dict[str, str]] = []  # headers, and the path as `path`
        self.open_count = 0  # connections
        self._barrier = threading.Barrier(together)
        host = self

        class Handler(BaseHTTPRequestHandler):
            def handle(self) -> None:
                host.open_count += 1
                with contextlib.suppress(OSError, threading.BrokenBarrierError):
                    super().handle()
                host.open_count -= 1

            def do_GET(self) -> None:
                host.requests.append({"path": self.path, **{name.lower(): v for name, v in self.headers.items()}})
                kind, _, rest = urlsplit(self.path).path[1:].partition("/")
                if kind == "drip":
                    self.send(200, None)
                    while not host.release.is_set():
                        self.wfile.write(b".")
                        time.sleep(0.02)
                    self.wfile.write(b"dripped")
                elif kind == "endless":
                    self.send(200, None)
                    self.pour()
                elif kind == "redirect":
                    self.send(302, None, location=parse_qs(urlsplit(self.path).query)["to"][0])
                    self.pour()
                elif kind == "together":
                    host._barrier.wait(60)
                    self.send(200, b"ok")
                elif kind == "short":
                    self.send(200, b"abc", length=10)
                elif kind == "gzip":
                    self.send(200, b"\x1f\x8b", content_encoding="gzip")
                elif kind == "text":
                    self.send(200, unquote(rest.partition("/")[0]).encode())
                else:
                    self.send(int(kind), b"")

            def send(self, status: int, body: bytes | None, length: int | None = None, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                if body is not None:
                    self.send_header("content-length", str(len(body) if length is None else length))
                self.send_header("content-type", "text/plain")
                self.end_headers()
                self.wfile.write(body or b"")

            def pour(self) -> None:
                while not host.release.is_set():
                    self.wfile.write(bytes(65536))

        super().__init__(Handler)

    def wait_until(self, *, open_count: int) -> None:
        """Wait until this many connections are open."""
        deadline = time.monotonic() + 60
        while self.open_count != open_count:
            assert time.monotonic() < deadline, f"{self.open_count} connections are open"
            time.sleep(0.02)
