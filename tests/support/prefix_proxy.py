"""A reverse proxy on loopback that serves another server below a path."""

from __future__ import annotations

import http.client
from http.server import BaseHTTPRequestHandler

from local_server import LocalServer


class PrefixProxy(LocalServer):
    """Passes requests below `prefix` to a port of loopback, without the prefix; a context manager. Others are 404."""

    def __init__(self, prefix: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not self.path.startswith(f"{prefix}/"):
                    self.send_error(404)
                    return
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                connection = http.client.HTTPConnection("127.0.0.1", port)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.request(self.command, self.path.removeprefix(prefix), body, headers)
                answer = connection.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "date"):
                        self.send_header(name, value)
                self.end_headers()  # HTTP/1.0: the end of the connection is the end of the body
                while chunk := answer.read1(65536):
                    self.wfile.write(chunk)
                connection.close()

            do_POST = do_DELETE = do_GET  # noqa: N815 - the names of http.server

        super().__init__(Handler)
        self.url += prefix
