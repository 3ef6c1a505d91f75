"""A prediction from the press of a button to its end, on the page."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from api_server import ApiServer
from playground_page import END, choose, control, run, run_to_the_end, status
from playwright.sync_api import Page, expect
from ports import free_port

RECORD = """
window.seen = {bars: [], pictures: new Set(), texts: new Set(), shifted: 0};
new PerformanceObserver(list => list.getEntries().forEach(({sources, value}) => {
    if (sources.some(({node}) => node?.parentElement?.closest("#result"))) seen.shifted += value;
})).observe({type: "layout-shift"});
new MutationObserver(() => {
    const bar = document.querySelector("progress"), picture = document.querySelector(".screen img");
    if (bar.hasAttribute("value") && !bar.classList.contains("idle")) seen.bars.push(bar.value);
    if (picture) seen.pictures.add(picture.src);
    seen.texts.add(document.querySelector(".status").textContent);
}).observe(document.querySelector("#clip"), {subtree: true, childList: true, attributes: true, characterData: true});
"""

# Where an element is below the form or next to it, wherever the page is scrolled to.
PLACE = "element => Math.round(element.getBoundingClientRect().top - result.getBoundingClientRect().top)"


@pytest.mark.parametrize("model", ["animate-diff", "stable-diffusion-animation", "zeroscope-v2-xl"])
def test_one_press_runs_a_real_model_as_the_form_opens(
    open_page: Callable[..., Page], models_url: str, model: str
) -> None:
    page = open_page(models_url)
    run_to_the_end(page, model)
    expect(page.locator("#clip clip-player")).to_have_attribute("src", re.compile("/delivery/"))


def test_a_text_is_shown_as_text(page: Page) -> None:
    run_to_the_end(page, "text", text="<b>bold</b>")
    expect(page.locator(".screen")).to_have_text("<b>bold</b>")


def test_progress_grows_and_pictures_are_shown_as_they_come_without_a_shift_of_the_layout(
    page: Page, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    choose(page, "pictures")
    page.evaluate(RECORD)
    for name, value in {"steps": "5", "seed": "40", "hold": str(hold)}.items():
        control(page, name).fill(value)
    run(page)
    for step in range(1, 5):
        expect(page.locator("#clip .status")).to_contain_text(f"denoise. {step} of 5", timeout=END)
        hold.write_text("x" * step)
    expect(status(page)).to_have_text("Done.", timeout=END)
    bars, pictures, texts = page.evaluate("[seen.bars, seen.pictures.size, [...seen.texts]]")
    assert len(set(bars)) > 2
    assert bars == sorted(bars)
    assert pictures >= 3  # the example's, and at least one before the last
    steps = [re.match(r"Running: denoise\. (\d) of 5, 00:0(\d) left", text) for text in texts]
    assert {int(step[1]) + int(step[2]) for step in steps if step} == {5}
    assert page.evaluate("seen.shifted") < 0.01  # the sum of layout shifts, of which up to 0.1 is good: web.dev/cls
    expect(page.locator(".stages")).to_contain_text("denoise 0.1 s")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_below_the_stage_moves_from_the_first_visit_to_the_end_of_a_run(
    open_page: Callable[..., Page], server: ApiServer, tmp_path: Path, width: int
) -> None:
    hold = tmp_path / "hold"
    page = open_page(server.url, viewport={"width": width, "height": 900}, reduced_motion="reduce")
    choose(page, "pictures")
    history = page.get_by_role("heading", name="History")
    places = {"first visit": history.evaluate(PLACE)}
    control(page, "steps").fill("2")
    control(page, "hold").fill(str(hold))
    places["first visit, filled form"] = history.evaluate(PLACE)
    run(page)
    expect(status(page)).to_have_text("Running: denoise.", timeout=END)
    places["running"] = history.evaluate(PLACE)
    hold.write_text("x")
    expect(status(page)).to_have_text("Done.", timeout=END)
    expect(page.locator(".stages")).to_contain_text("denoise")
    places["done"] = history.evaluate(PLACE)
    assert len(set(places.values())) == 1, places


def test_a_model_that_starts_and_a_place_in_the_queue_are_named(open_page: Callable[..., Page], tmp_path: Path) -> None:
    go = tmp_path / "go"
    with ApiServer(tmp_path / "api", models=["text"], token=None, start_when=go) as server:
        page = open_page(server.url)
        run(page)
        expect(status(page)).to_have_text("The model is starting.")
        run(page)
        expect(page.locator("#clip .status")).to_have_text("Queued. 1 before it")
        go.touch()


def test_escape_cancels_the_prediction_that_is_shown_also_in_the_queue_and_the_next_one_runs(page: Page) -> None:
    choose(page, "text")
    for sleep in ("600", "600", "0"):
        control(page, "sleep").fill(sleep)
        run(page)
    cards = page.locator("#gallery .card")
    for card in (1, 2):
        cards.nth(card).get_by_role("button").click()
        page.keyboard.press("Escape")
        expect(status(page)).to_have_text("Canceled.", timeout=END)
    expect(cards.first).to_have_attribute("data-status", "succeeded", timeout=END)


def test_a_prediction_goes_on_while_the_page_is_closed(
    open_page: Callable[..., Page], server: ApiServer, tmp_path: Path
) -> None:
    page = open_page(server.url)
    choose(page, "text")
    control(page, "text").fill("still here")
    control(page, "hold").fill(str(tmp_path / "end"))
    run(page)
    page.close()
    page = open_page(server.url)
    choose(page, "text")
    expect(status(page)).to_have_text("Running.", timeout=END)
    (tmp_path / "end").touch()
    expect(status(page)).to_have_text("Done.", timeout=END)
    expect(page.locator(".screen")).to_have_text("still here")


def test_a_server_that_stops_is_named_and_what_it_runs_is_shown_when_it_is_back(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    with ApiServer(tmp_path / "api", models=["pictures"], token=None, port=free_port()) as server:
        page = open_page(server.url)
        control(page, "steps").fill("4")
        control(page, "hold").fill(str(hold))
        run(page)
        expect(page.locator("#clip .detail")).to_contain_text("of 4", timeout=END)
        server.kill()
        expect(page.locator("#notice")).to_contain_text("The server does not answer. Is it running?")
        hold.write_text("x" * 4)
        server.start()
        expect(status(page)).to_have_text("Done.", timeout=END)
        expect(page.locator("#notice")).to_be_empty()


def test_what_was_removed_is_said_with_what_to_do(open_page: Callable[..., Page], tmp_path: Path) -> None:
    with ApiServer(tmp_path / "api", models=["text"], token=None, keep=3600) as server:
        server.create("text", wait=True)
        server.stop()
        server.config.write_text(server.config.read_text().replace("keep = 3600", "keep = 0.1"))
        server.start()
        while not server.http.get("/predictions").json()["results"][0]["data_removed"]:
            time.sleep(0.1)
        page = open_page(server.url)
        page.locator("#gallery .card").get_by_role("button").click()
        expect(status(page)).to_have_text("Removed.")
        expect(page.locator(".screen")).to_contain_text("start the server with a longer --keep")
