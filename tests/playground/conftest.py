"""The playground in headless Chromium, in front of real servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from playwright.sync_api import Browser, BrowserContext, Page, expect
from programs import npm_directory
from tree import ROOT

expect.set_options(timeout=60_000)  # milliseconds, as other tests may use all cores


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server of the test models, without a token."""
    with ApiServer(tmp_path_factory.mktemp("playground"), token=None) as running:
        yield running
    assert running.logged_errors() == []


@pytest.fixture(scope="session")
def models_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `script/serve`, with the real models and their demo weights."""
    data = tmp_path_factory.mktemp("models")
    command = [sys.executable, ROOT / "script" / "serve", "--port", "0", "--data", data]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8") as process:
        assert process.stdout is not None
        yield process.stdout.readline().split(" is ready at ")[1].split()[0]
        process.terminate()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A function that opens an address in a new profile of the browser. A script that fails is a fault of the test."""
    faults: list[str] = []
    profiles: list[BrowserContext] = []

    def open_address(url: str, **options: object) -> Page:
        profiles.append(browser.new_context(**options))  # type: ignore[arg-type]
        page = profiles[-1].new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(url)
        return page

    yield open_address
    for profile in profiles:
        profile.close()
    assert faults == []


@pytest.fixture(scope="session")
def violations(pytestconfig: pytest.Config) -> Callable[[Page], list[tuple[str, list[str]]]]:
    """A function that returns the rules of axe that a page, opened with `bypass_csp`, violates, and where."""
    directory = npm_directory(pytestconfig, "axe", Path(__file__).parent / "axe")
    axe = (directory / "node_modules" / "axe-core" / "axe.min.js").read_text()

    def find(page: Page) -> list[tuple[str, list[str]]]:
        page.evaluate(axe)
        found: Any = page.evaluate("axe.run()")
        return [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found["violations"]]

    return find


@pytest.fixture
def page(open_page: Callable[..., Page], server: ApiServer) -> Page:
    return open_page(server.url)
