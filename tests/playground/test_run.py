"""Run a model from the page, and see its result."""

from __future__ import annotations

from api_server import ApiServer
from playwright.sync_api import Page, expect


def choose(page: Page, model: str) -> None:
    page.get_by_role("tab", name=model, exact=True).click()


def test_one_press_runs_a_model_with_its_defaults_and_shows_the_result(page: Page, server: ApiServer) -> None:
    choose(page, "text")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status").first).to_contain_text("Done in", timeout=30_000)
    expect(page.locator("#clip .screen")).to_have_text("hello")
    assert server.http.get("/predictions").json()["results"][0]["output"] == "hello"
