"""What a user does on the playground's page."""

from __future__ import annotations

import time
from typing import Any

import httpx
from playwright.sync_api import Locator, Page, expect

END = 300_000  # milliseconds within which a prediction ends on a busy machine, with the start of its model


def choose(page: Page, model: str) -> None:
    page.get_by_role("tab", name=model, exact=True).click()


def field(page: Page, name: str) -> Locator:
    """Return an input's field, with its label and help."""
    return page.locator(f'#fields [data-name="{name}"]')


def control(page: Page, name: str) -> Locator:
    return page.locator(f"#input-{name}")


def run(page: Page) -> None:
    """Press Run, and wait for the server's answer."""
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        page.get_by_role("button", name="Run", exact=True).click()


def status(page: Page) -> Locator:
    """Return what the prediction on the stage does."""
    return page.locator("#clip").get_by_role("status")


def run_to_the_end(page: Page, model: str, **inputs: str) -> None:
    """Run a model with texts in some fields."""
    choose(page, model)
    for name, value in inputs.items():
        control(page, name).fill(value)
    run(page)
    expect(status(page)).to_have_text("Done.", timeout=END)


def newest_prediction(url: str) -> Any:
    """Return the newest prediction of a server after its end."""
    while True:
        prediction = httpx.get(f"{url}/v1/predictions", timeout=60).json()["results"][0]
        if prediction["status"] not in ("starting", "processing"):
            return prediction
        time.sleep(0.1)
