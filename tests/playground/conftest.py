"""The playground in headless Chromium, in front of a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from api_server import ApiServer
from playwright.sync_api import Browser, Page, sync_playwright
from programs import needs


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=needs("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("playground"), token=None) as running:
        yield running
    assert running.logged_errors() == []


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens an address in a browser without cookies. A fault of a script fails the test."""
    faults: list[str] = []
    contexts = []

    def open_address(url: str, **context: object) -> Page:
        contexts.append(browser.new_context(**context))  # type: ignore[arg-type]
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(url)
        return page

    yield open_address
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(open_page: Callable[..., Page], server: ApiServer) -> Page:
    return open_page(server.url)
