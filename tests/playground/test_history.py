"""The history, with predictions of other programs, some of them hostile."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator

import pytest
from api_in_process import ApiInProcess
from api_server import MODELS, VERSIONS
from playwright.sync_api import Page, expect
from predictions_api.settings import ModelSettings
from predictions_api.store.database import random_key
from tree import ROOT

HOSTILE = [
    "<script>hacked = 1</script>",
    "<img src=x onerror=hacked=1>",
    "<svg onload=hacked=1>",
    "javascript:hacked=1",
    "data:text/html,<script>hacked=1</script>",
    '"><iframe srcdoc="<script>parent.hacked=1</script>">',
    "https://example.com/v1/x.png\"onerror='hacked=1'",
    "http://example.com/tracker.gif",
    "__proto__",
    "\u202e\x1b[2J\r\n\t\\u003cscript\\u003e",
]


CLIP = ROOT / "animate-diff" / "examples" / "red-circle-moving-right.mp4"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    names = ("pictures", "text")  # nothing listens at the address of their Cog servers
    models = tuple(
        ModelSettings(
            f"test/{name}", (VERSIONS[name],), schema=MODELS / name / "openapi.json", urls=("http://[::1]:9",)
        )
        for name in names
    )
    with ApiInProcess(tmp_path_factory.mktemp("api"), models=models, tokens=()) as running:
        yield running


@pytest.fixture(scope="module")
def api_with_clip(api: ApiInProcess) -> str:
    """Return the address of a server whose newest prediction has a clip."""
    clip = "data:video/mp4;base64," + b64encode(CLIP.read_bytes()).decode()
    path = api.run(api.service.files.store_output("p" * 26, clip))
    api.add_prediction(model="test/text", output=path, status="succeeded", created_at=1_755_000_000_000_000)
    return api.url


def test_the_history_is_paged_and_filtered_and_loads_only_the_clips_that_are_seen(
    api: ApiInProcess, open_page: Callable[..., Page]
) -> None:
    clip = "data:image/png;base64,iVBORw0KGgo="
    path = api.run(api.service.files.store_output("p" * 26, clip))
    for number in range(500):
        model = "test/pictures" if number % 2 else "test/text"
        api.add_prediction(model=model, input={"prompt": f"number {number}"}, output=[path], status="succeeded")
    page = open_page(api.url)
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    cards = page.locator("#gallery .card")
    for count in range(100, 500, 100):
        expect(cards).to_have_count(count)
        page.get_by_role("button", name="Older").click()
    expect(cards).to_have_count(500)
    expect(page.get_by_role("button", name="Older")).to_be_hidden()
    page.get_by_label("Show").select_option("pictures")
    expect(cards.locator("visible=true")).to_have_count(250)
    assert len([url for url in loaded if "/delivery/" in url]) < 100


LATE = """async id => {
    const {state} = await import("/playground/state.js");
    const running = {...state.predictions.get(id), id: "running", status: "processing"};
    for (const output of [running.output, null, running.output]) state.put({...running, output});
}"""


def test_an_answer_that_arrives_late_takes_no_output_away(open_page: Callable[..., Page], api_with_clip: str) -> None:
    page = open_page(api_with_clip)
    known = page.locator("#gallery .card").first.get_attribute("data-id")
    page.evaluate(LATE, known)
    card = page.locator("#gallery .card[data-id=running]")
    expect(card.get_by_role("checkbox")).to_have_count(1)


def test_a_clip_plays_while_the_pointer_is_on_its_card(open_page: Callable[..., Page], api_with_clip: str) -> None:
    page = open_page(api_with_clip)
    card = page.locator("#gallery .card").first
    card.hover()
    expect(card.locator("video")).to_have_js_property("paused", False)
    page.get_by_role("heading", name="History").hover()
    expect(card.locator("video")).to_have_js_property("paused", True)


def test_a_clip_loops_changes_its_speed_is_downloaded_and_fills_the_screen(
    open_page: Callable[..., Page], api_with_clip: str
) -> None:
    page = open_page(api_with_clip)
    page.locator("#gallery .card").first.get_by_role("button").click()
    player = page.locator("#clip clip-player")
    expect(player.locator("video")).to_have_js_property("loop", True)
    player.get_by_role("button", name="Loop").click()
    expect(player.locator("video")).to_have_js_property("loop", False)
    player.get_by_label("Speed").select_option("2×")
    expect(player.locator("video")).to_have_js_property("playbackRate", 2)
    with page.expect_download() as download:
        player.get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes() == CLIP.read_bytes()
    player.get_by_role("button", name="Full screen").click()
    page.wait_for_function("document.fullscreenElement?.localName === 'clip-player'")


def test_a_card_shows_the_form_of_its_model_and_what_it_waits_for(
    api: ApiInProcess, open_page: Callable[..., Page]
) -> None:
    waits = {"waiting for a worker ...\n": "Waiting for a worker.", "starting text ...\n": "The model is starting."}
    for number, log in enumerate(waits):
        created_at = 1_757_000_000_000_000 - number
        prediction = api.add_prediction(
            model="test/text", status="starting", stream_key=random_key(), created_at=created_at
        )
        api.update(prediction, logs=log)
    page = open_page(api.url)
    page.get_by_role("tab", name="pictures").click()
    for place, words in enumerate(waits.values()):
        page.locator("#gallery .card").nth(place).get_by_role("button").click()
        expect(page.locator("#clip").get_by_role("status")).to_have_text(words)
    expect(page.get_by_role("tab", name="text", selected=True)).to_be_visible()


def test_hostile_prompts_logs_and_file_names_are_texts(api: ApiInProcess, open_page: Callable[..., Page]) -> None:
    for number in range(200):  # with 5 hostile texts each
        text = [HOSTILE[(number + place) % len(HOSTILE)] + str(number) for place in range(5)]
        api.add_prediction(
            created_at=1_760_000_000_000_000 + number,
            model="test/text",
            input={"text": text[0], "mark": text[1]},
            logs=text[2],
            output=[text[3], f"/v1/delivery/{'0' * 52}/<img onerror=hacked=1>.png"],
            status="failed" if number % 2 else "succeeded",
            error=text[4] if number % 2 else None,
        )
    page = open_page(api.url)
    page.evaluate("document.addEventListener('securitypolicyviolation', event => (window.hacked = event.blockedURI))")
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(api.url) else None)
    page.get_by_role("button", name="Older").click()
    cards = page.locator("#gallery .card")
    expect(cards).to_have_count(200)
    buttons = page.locator("#gallery .card button[aria-pressed]")
    buttons.evaluate_all("buttons => buttons.forEach(button => button.click())")
    page.locator(".logs summary").click()
    for number in range(len(HOSTILE)):
        buttons.nth(number).click()
        expect(page.locator(".logs pre")).to_contain_text(str(199 - number))
        page.get_by_role("button", name="Use these inputs").click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("script").count() == 1
    assert foreign == []
