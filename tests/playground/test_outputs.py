"""What the page shows of predictions that have ended: files that no browser shows, texts, faults, and nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api_in_process import PIXEL_URI, ApiInProcess
from api_server import MODELS, VERSIONS
from playground_page import choose, status
from playwright.sync_api import Locator, Page, expect
from predictions_api.settings import ModelSettings
from predictions_api.store.database import random_key

Violations = Callable[[Page], list[tuple[str, list[str]]]]
MODEL = "test/pictures"
NOTE_IS_READABLE = """() => {
    const note = document.querySelector(".screen .note"), range = document.createRange();
    range.selectNodeContents(note);
    return range.getClientRects()[0].top >= note.getBoundingClientRect().top && note.scrollHeight > note.clientHeight;
}"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    models = tuple(
        ModelSettings(
            f"test/{name}", (VERSIONS[name],), schema=MODELS / name / "openapi.json", urls=("http://[::1]:9",)
        )
        for name in ("pictures", "text", "words")
    )
    with ApiInProcess(tmp_path_factory.mktemp("api"), models=models, tokens=()) as running:
        yield running


Show = Callable[..., Page]


@pytest.fixture
def show(api: ApiInProcess, open_page: Callable[..., Page]) -> Show:
    """Return a function that adds a prediction, and returns a page that shows it on the stage."""

    def show_prediction(*, model: str = MODEL, **members: Any) -> Page:
        members = {"input": {"prompt": "a"}, "status": "succeeded", "metrics": {"predict_time": 1}, **members}
        prediction = api.add_prediction(model=model, **members)
        page = open_page(api.url)
        card(page, prediction.id).get_by_role("button").click()
        return page

    return show_prediction


def card(page: Page, prediction_id: str) -> Locator:
    return page.locator(f'#gallery [data-id="{prediction_id}"]')


def buttons(page: Page) -> list[str]:
    """Return what can be done with the prediction on the stage."""
    return page.locator("#clip .actions button").all_inner_texts()


@pytest.mark.parametrize(
    "uri", ["video/mp4;base64,AAAA", "image/png;base64,iVBO", "image/gif;base64,R0lG", "audio/wav,a"]
)
def test_a_file_that_the_browser_cannot_show_is_a_link_to_it(api: ApiInProcess, show: Show, uri: str) -> None:
    page = show(output=[api.store_output(f"data:{uri}")])
    link = page.locator("#clip").get_by_role("link", name="The browser cannot show this file. Download it.")
    expect(link).to_be_visible()
    expect(page.locator(".controls")).to_have_count(0)
    expect(page.locator("#gallery [aria-pressed=true] .picture")).to_be_empty()


def test_all_texts_of_a_model_are_shown(show: Show) -> None:
    page = show(model="test/words", input={"text": "one two"}, output=["one", "two"])
    expect(page.locator(".screen pre")).to_have_text("one two", use_inner_text=True)


def test_a_long_fault_is_read_from_its_beginning(show: Show) -> None:
    page = show(status="failed", error="CUDA is out of memory. " * 500)
    expect(page.locator(".screen .note")).to_be_visible()
    assert page.evaluate(NOTE_IS_READABLE)


@pytest.mark.parametrize("ended", ["succeeded", "canceled", "aborted"])
def test_an_end_without_an_output_is_said(show: Show, ended: str) -> None:
    page = show(status=ended, output=None)
    expect(page.locator(".screen")).to_have_text("There is no output.")


def test_outputs_of_a_prediction_that_failed_later_can_be_seen(api: ApiInProcess, show: Show) -> None:
    page = show(status="failed", error="at the end", output=[api.store_output(PIXEL_URI)])
    expect(page.locator(".screen")).to_have_text("at the end")
    page.get_by_role("button", name="Output 1 of 1").click()
    expect(page.locator(".screen img")).to_be_visible()


def test_the_output_that_is_shown_is_marked_and_many_outputs_need_one_line(api: ApiInProcess, show: Show) -> None:
    page = show(output=[api.store_output(PIXEL_URI)] * 60)
    expect(page.get_by_role("button", name="Output 60 of 60", pressed=True)).to_be_in_viewport()
    page.get_by_role("button", name="Output 7 of 60").click()
    expect(page.locator(".strip [aria-pressed=true]")).to_have_text("7")
    assert page.locator(".stages").evaluate("line => line.clientHeight") < 50


def test_only_what_can_be_done_is_offered(show: Show) -> None:
    assert buttons(show(metrics={"seed": 5})) == ["Use these inputs", "Next seed"]
    assert buttons(show(metrics={})) == ["Use these inputs"]
    page = show(input={}, output=None, data_removed=True)
    expect(status(page)).to_have_text("Removed.")
    assert buttons(page) == []


def test_stages_are_in_the_order_of_the_log(show: Show) -> None:
    page = show(
        metrics={"seconds": {"decode": 0.3, "denoise": 8.3, "text": 0.1}},
        logs="text: 1 prompt in 0.1 s\ndenoise: 25 steps in 8.3 s\ndecode: 16 frames in 0.3 s\n",
    )
    expect(page.locator(".stages")).to_have_text("text 0.1 s · denoise 8.3 s · decode 0.3 s")


@pytest.mark.parametrize("view", ["Code", "About"])
def test_a_card_shows_its_clip_also_from_another_view(api: ApiInProcess, show: Show, view: str) -> None:
    page = show(output=[api.store_output(PIXEL_URI)])
    page.get_by_role("tab", name=view).click()
    page.locator("#gallery [aria-pressed=true]").click()
    expect(page.locator("#clip img")).to_be_visible()


def test_clips_that_were_removed_meanwhile_are_named_in_a_comparison(api: ApiInProcess, show: Show) -> None:
    for _ in range(2):
        page = show(output=[api.store_output(PIXEL_URI)])
    for box in page.get_by_role("checkbox", name="Compare").all()[:2]:
        box.check()
    page.evaluate(
        """async () => {
            const {state} = await import("/playground/state.js");
            for (const known of state.predictions.values()) state.put({...known, output: null, data_removed: true});
        }"""
    )
    page.get_by_role("button", name="Compare 2").click()
    dialog = page.get_by_role("dialog", name="Comparison")
    expect(dialog.get_by_text("The clip was removed.")).to_have_count(2)
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_faults_links_comparisons_and_messages(
    api: ApiInProcess, open_page: Callable[..., Page], violations: Violations, scheme: str
) -> None:
    members: dict[str, Any] = {"model": MODEL, "input": {"prompt": "a"}, "metrics": {"seed": 1}}
    shown = [
        api.add_prediction(**members, status="failed", error="a long fault " * 500),
        api.add_prediction(**members, status="succeeded", output=[api.store_output("data:audio/wav,a")]),
        api.add_prediction(**members, status="succeeded", output=[api.store_output(PIXEL_URI)] * 60),
        api.add_prediction(**members, status="canceled", output=[api.store_output(PIXEL_URI)]),
    ]
    page = open_page(api.url, color_scheme=scheme, viewport={"width": 320, "height": 700}, bypass_csp=True)
    for prediction in shown:
        card(page, prediction.id).get_by_role("button").click()
        page.locator("#clip").locator(".note, .file-link, img").wait_for()
        page.evaluate("document.querySelectorAll('details').forEach(details => (details.open = true))")
        assert violations(page) == [], prediction
    for prediction in shown[2:]:
        card(page, prediction.id).get_by_label("Compare").check()
    page.get_by_role("button", name="Compare 2").click()
    page.locator("dialog img").nth(1).wait_for()
    assert violations(page) == []
    page.get_by_role("button", name="Close").click()
    page.evaluate("import('/playground/notice.js').then(({notice}) => notice({title: 'A message'}))")
    expect(page.locator("#notice")).to_have_text("A message")
    assert violations(page) == []


def test_a_model_without_predictions_is_said_in_the_history(show: Show) -> None:
    page = show(model="test/words", output=["a"])
    page.get_by_label("Show").select_option("text")
    expect(page.locator("#history")).to_contain_text("None of the predictions that are loaded is of this model.")
    page.get_by_label("Show").select_option("words")
    expect(page.locator("#none")).to_be_hidden()


def test_every_one_of_many_running_predictions_is_followed(api: ApiInProcess, open_page: Callable[..., Page]) -> None:
    running = [
        api.add_prediction(
            model=MODEL, status="starting", created_at=1_780_000_000_000_000 + number, stream_key=random_key()
        )
        for number in range(150)
    ]
    page = open_page(api.url)
    choose(page, "pictures")
    page.get_by_role("button", name="Older").click()
    expect(card(page, running[0].id)).to_contain_text("Queued")
    api.update(running[0], status="canceled")
    expect(card(page, running[0].id)).to_contain_text("Canceled")
    for prediction in running:
        api.update(prediction, status="canceled")
