"""The page itself: its size, its policy, the token, the keyboard, and accessibility."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from api_in_process import TOKEN, ApiInProcess
from api_server import MODELS, VERSIONS, ApiServer
from playground_page import END, choose, control, run, run_to_the_end, status
from playwright.sync_api import Page, Request, Route, expect
from ports import free_port
from predictions_api.settings import ModelSettings
from prefix_proxy import PrefixProxy
from tree import ROOT

Violations = Callable[[Page], list[tuple[str, list[str]]]]


def test_the_page_sends_fewer_than_80_kb_and_nothing_comes_from_elsewhere(
    open_page: Callable[..., Page], server: ApiServer
) -> None:
    requests: list[Request] = []
    page = open_page("about:blank")
    page.on("request", lambda request: requests.append(request))
    page.goto(server.url)
    page.wait_for_load_state("networkidle")
    assert all(request.url.startswith(server.url) for request in requests)
    files = [request.sizes() for request in requests if request.resource_type != "fetch"]
    assert 20_000 < sum(file["responseBodySize"] + file["responseHeadersSize"] for file in files) < 80_000


def test_the_policy_allows_only_scripts_styles_and_requests_of_the_server_itself(server: ApiServer) -> None:
    for path in ("/", "/playground/main.js"):
        policy = httpx.get(server.url + path, timeout=60).headers["content-security-policy"]
        assert "unsafe" not in policy
        directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
        assert directives["default-src"] == directives["form-action"] == "'none'"
        assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"


def test_the_files_of_the_page_are_in_the_package(tmp_path: Path) -> None:
    package = ROOT / "shared" / "predictions-api"
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=package, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    files = {path.name for path in (package / "src" / "predictions_api" / "playground").iterdir()}
    assert {f"predictions_api/playground/{name}" for name in files} <= set(names)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    """A server with a token."""
    schema = MODELS / "text" / "openapi.json"
    text = ModelSettings("test/text", (VERSIONS["text"],), schema=schema, urls=("http://[::1]:9",))
    with ApiInProcess(tmp_path_factory.mktemp("api"), models=(text,)) as running:
        yield running


def test_a_token_is_asked_for_once_and_kept_for_the_tab(api: ApiInProcess, open_page: Callable[..., Page]) -> None:
    page = open_page(api.url)
    for token in ("wrong", TOKEN):
        page.get_by_role("textbox", name="Token").fill(token)
        page.get_by_role("button", name="Continue").click()
        if token == "wrong":
            expect(page.get_by_text("The server refused this token.")).to_be_visible()
    expect(page.get_by_role("tab", name="text")).to_be_visible()
    page.reload()
    expect(page.get_by_role("tab", name="text")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    other = page.context.new_page()
    other.goto(api.url)
    expect(other.get_by_role("dialog")).to_be_visible()


def test_the_keyboard_alone_chooses_a_model_writes_a_prompt_runs_and_cancels(page: Page) -> None:
    press = page.keyboard.press
    expect(page.get_by_role("tab", name="file", exact=True)).to_be_visible()
    press("Tab")
    while page.evaluate("document.activeElement.textContent") != "text":
        press("ArrowRight")
    press("Tab")  # to the link to the API's documentation
    press("Tab")
    press("Control+A")
    page.keyboard.type("typed")
    press("Tab")
    press("Tab")
    press("Control+A")
    page.keyboard.type("600")
    press("Control+Enter")
    expect(status(page)).to_have_text("Running.", timeout=END)
    press("Escape")
    expect(status(page)).to_have_text("Canceled.", timeout=END)
    expect(page.locator("#gallery .card").first).to_contain_text("typed")


@pytest.mark.parametrize("width", [320, 1280])
def test_a_field_that_has_the_focus_is_not_behind_the_button(
    open_page: Callable[..., Page], server: ApiServer, width: int
) -> None:
    page = open_page(server.url, viewport={"width": width, "height": 640})
    choose(page, "pictures")
    control(page, "prompt").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("Boolean(document.activeElement.closest('#fields'))"):
            hidden = "document.activeElement.getBoundingClientRect().bottom > send.getBoundingClientRect().top"
            assert not page.evaluate(hidden), page.evaluate("document.activeElement.id")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_and_nothing_is_wider_than_a_small_screen(
    open_page: Callable[..., Page], server: ApiServer, violations: Violations, scheme: str, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    page = open_page(server.url, color_scheme=scheme, viewport={"width": 320, "height": 700}, bypass_csp=True)

    def check(state: str) -> None:
        assert violations(page) == [], state
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, state

    choose(page, "pictures")
    check("before the first run")
    control(page, "steps").fill("101")
    run(page)
    check("a fault")
    control(page, "steps").fill("2")
    control(page, "hold").fill(str(hold))
    run(page)
    expect(page.locator(".screen img")).to_be_visible(timeout=END)
    check("running")
    hold.write_text("x")
    expect(status(page)).to_have_text("Done.", timeout=END)
    page.locator(".logs summary").click()
    check("done, with its log")
    for view in ("Code", "About"):
        page.get_by_role("tab", name=view).click()
        check(view)


def test_a_page_that_opens_while_the_server_fails_goes_on_by_itself(
    open_page: Callable[..., Page], server: ApiServer
) -> None:
    page = open_page("about:blank")
    answers = iter([503, 500])
    page.route(
        "**/models?*",
        lambda route: route.fulfill(status=status) if (status := next(answers, None)) else route.continue_(),
    )
    page.goto(server.url)
    expect(page.locator("#notice")).to_contain_text("The server answered 50")
    expect(page.get_by_role("tab", name="pictures", exact=True)).to_be_visible()
    expect(page.locator("#notice")).to_be_empty()


def test_the_buttons_of_the_form_wait_for_the_models(open_page: Callable[..., Page], server: ApiServer) -> None:
    page = open_page("about:blank")
    held: list[Route] = []
    page.route("**/models?*", lambda route: held.append(route))  # Playwright takes no built-in function
    with page.expect_request("**/models?*"):
        page.goto(server.url)
    for button in page.locator("#send button").all():
        expect(button).to_be_disabled()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#notice")).to_be_empty()
    held[0].continue_()
    run(page)
    expect(status(page)).to_have_text("Done.", timeout=END)


def test_a_second_press_of_run_before_the_answer_makes_no_second_prediction(page: Page) -> None:
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    page.route("**/predictions", lambda route: (time.sleep(0.5), route.continue_()))
    choose(page, "text")
    button = page.get_by_role("button", name="Run", exact=True)
    with page.expect_response("**/models/test/text/predictions"):
        button.evaluate("button => [1, 2, 3].forEach(() => button.click())")
    expect(button).to_have_attribute("aria-disabled", "false")
    assert len(sent) == 1


@pytest.mark.parametrize("width", [320, 1280])
def test_a_message_with_a_long_file_name_is_within_the_window_and_not_in_front_of_run(
    open_page: Callable[..., Page], server: ApiServer, width: int
) -> None:
    page = open_page(server.url, viewport={"width": width, "height": 640})
    choose(page, "pictures")
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File(["x"], "x".repeat(250) + ".mp4"));
            document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true}));
        }"""
    )
    expect(page.locator("#notice")).to_contain_text("Give an unchanged file of a model")
    assert page.locator("#notice").evaluate("line => line.scrollWidth <= line.clientWidth")
    page.get_by_role("button", name="Run", exact=True).click(trial=True)
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#notice")).to_be_empty()


def test_the_page_works_below_a_path_of_a_reverse_proxy(open_page: Callable[..., Page], tmp_path: Path) -> None:
    port = free_port()
    with (
        PrefixProxy("/ai", port) as proxy,
        ApiServer(tmp_path / "api", models=["pictures"], token=None, port=port, public_url=proxy.url),
    ):
        page = open_page(f"{proxy.url}/")
        run_to_the_end(page, "pictures", steps="1")
        source = page.locator("clip-player").get_attribute("src") or ""
        assert source.startswith(f"{proxy.url}/v1/delivery/")
        assert httpx.get(source, timeout=60).content.startswith(b"\x89PNG")
