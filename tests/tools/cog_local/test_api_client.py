"""The log of a prediction of a running server, as script/predict --server shows it."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from cog_local.api_client import ApiClient
from local_server import LocalServer


def test_each_line_is_shown_once_and_again_after_a_new_start(tmp_path: Path) -> None:
    answers = iter(
        [
            {"status": "starting", "logs": ""},
            {"status": "processing", "logs": "starting model ...\none\ntw"},
            {"status": "processing", "logs": "The server stopped.\n"},  # the server was killed, and runs it again
            {"status": "succeeded", "logs": "The server stopped.\none\ntwo", "output": "done"},
        ]
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.dumps({"id": "a", **next(answers)}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name of http.server

    lines: list[str] = []
    with LocalServer(Handler) as server, ApiClient(server.url, tmp_path / "model", lines.append) as client:
        assert client.predict({})["output"] == "done"
    assert lines == ["starting model ...", "one", "The server stopped.", "one", "two"]
