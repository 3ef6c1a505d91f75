"""A page of a local server in headless Chromium, which reports what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import LocalServer
from playwright.sync_api import Browser


def report_of_chromium(browser: Browser, script: str, files: Mapping[str, tuple[str, bytes]] | None = None) -> Any:
    """Return what a page passes to `report(...)` in its `script`.

    `files` has further paths of the page's server: path -> (content type, content).
    """
    contents = {"/": ("text/html", b""), **(files or {})}

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content_type, body = contents.get(self.path, ("text/plain", b""))
            self.send_response(200 if self.path in contents else 404)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with LocalServer(Site) as site, browser.new_page() as page:
        page.goto(site.url)
        return page.evaluate(f"new Promise(report => {{{script}}})")
