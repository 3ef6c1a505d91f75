"""A real browser: headless Chromium opens a page from a local server and reports what it finds there."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

from programs import needs

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio"),
]
PAGE = """<!doctype html><body><script>
const report = result => fetch("/report", {{method: "POST", body: JSON.stringify(result)}});
{script}
</script>"""


def report_of_chromium(script: str, profile: Path, files: Mapping[str, tuple[str, bytes]] | None = None) -> Any:
    """Return what a page passes to `report(...)` in its `script`.

    `profile` is an unused directory. `files` has further paths of the page's server: path -> (content type, content).
    """
    chromium = needs("chromium")
    reports: Queue[Any] = Queue()
    contents = {"/": ("text/html", PAGE.format(script=script).encode()), **(files or {})}

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content_type, body = contents.get(self.path, ("text/plain", b""))
            self.send_response(200 if self.path in contents else 404)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        page = f"http://127.0.0.1:{server.server_port}/"
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", page]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return reports.get(timeout=120)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
            thread.join()
