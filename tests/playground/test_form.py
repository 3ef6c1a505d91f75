"""The form: a field for each input of a model's schema, files, and faults at their fields."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from api_server import ApiServer
from playground_page import END, choose, control, field, run, run_to_the_end
from playwright.sync_api import Page, expect
from tree import ROOT, models

SCHEMAS = {
    model: json.loads((ROOT / model / "openapi.json").read_text())["components"]["schemas"] for model in models()
}

# The names of inputs that are wider than their fields.
TOO_WIDE = """
[...document.querySelectorAll("#fields input, #fields select")].filter(control => {
    const right = element => element.getBoundingClientRect().right;
    return right(control) > right(control.closest(".field")) + 1;
}).map(control => control.id)
"""


@pytest.mark.parametrize("model", SCHEMAS)
def test_the_fields_are_the_inputs_of_a_models_schema_in_its_order(
    open_page: Callable[..., Page], models_url: str, model: str
) -> None:
    inputs: dict[str, Any] = SCHEMAS[model]["Input"]["properties"]
    page = open_page(models_url)
    choose(page, {"sd-animation": "stable-diffusion-animation", "zeroscope": "zeroscope-v2-xl"}.get(model, model))
    page.get_by_role("button", name="Defaults").click()
    names = page.locator("#fields .field").evaluate_all("fields => fields.map(field => field.dataset.name)")
    assert names == sorted(inputs, key=lambda name: int(inputs[name]["x-order"]))
    for name, declared in inputs.items():
        expect(control(page, name)).to_have_accessible_description(re.compile(re.escape(declared["description"])))
        choices = SCHEMAS[model].get(name, {}).get("enum", [])
        assert field(page, name).locator("option").all_inner_texts() == [str(choice) for choice in choices]
        if declared.get("type") == "boolean":
            expect(control(page, name)).to_be_checked(checked=declared["default"])
        else:
            expect(control(page, name)).to_have_value(str(declared.get("default", "")))


@pytest.mark.parametrize("width", [320, 768, 1400])
def test_every_field_of_a_real_model_is_within_the_form(
    open_page: Callable[..., Page], models_url: str, width: int
) -> None:
    page = open_page(models_url, viewport={"width": width, "height": 900})
    for model in ("animate-diff", "stable-diffusion-animation", "zeroscope-v2-xl"):
        choose(page, model)
        expect(page.get_by_role("tab", name=model, exact=True)).to_have_attribute("aria-selected", "true")
        assert page.evaluate("form.scrollWidth - form.clientWidth") == 0, model
        assert page.evaluate(TOO_WIDE) == [], model


def test_a_slider_and_its_number_follow_each_other(page: Page) -> None:
    choose(page, "pictures")
    slider = field(page, "steps").get_by_role("slider")
    slider.press("ArrowRight")
    expect(control(page, "steps")).to_have_value("4")
    control(page, "steps").fill("50")
    expect(slider).to_have_value("50")


def test_the_die_writes_a_seed_and_same_again_the_one_of_the_clip(page: Page) -> None:
    run_to_the_end(page, "pictures", seed="12")
    field(page, "seed").get_by_role("button", name="New seed").click()
    rolled = int(control(page, "seed").input_value())
    assert rolled != 12
    assert 0 <= rolled < 2**31
    field(page, "seed").get_by_role("button", name="Same again").click()
    expect(control(page, "seed")).to_have_value("12")


def test_what_the_form_says_is_what_the_server_gets(page: Page, server: ApiServer) -> None:
    choose(page, "pictures")
    control(page, "size").select_option("32")
    control(page, "mirrored").check()
    run_to_the_end(page, "pictures", prompt="a", strength="0.25", steps="1", seed="")
    newest = server.http.get("/predictions").json()["results"][0]
    assert newest["input"] == {"prompt": "a", "size": 32, "mirrored": True, "strength": 0.25, "steps": 1}


def test_a_form_is_as_it_was_left_after_another_model(page: Page) -> None:
    choose(page, "pictures")
    control(page, "strength").fill("0.125")
    choose(page, "text")
    choose(page, "pictures")
    expect(control(page, "strength")).to_have_value("0.125")


def test_two_faults_are_shown_at_their_fields_in_the_servers_words_with_the_focus_at_the_first(page: Page) -> None:
    choose(page, "pictures")
    control(page, "steps").fill("101")
    control(page, "strength").fill("much")
    run(page)
    expect(control(page, "steps")).to_be_focused()
    expect(field(page, "steps")).to_contain_text("Must be less than or equal to 100")
    expect(field(page, "strength")).to_contain_text("Invalid type. Expected: number, given: string")
    control(page, "steps").fill("10")
    expect(field(page, "steps")).not_to_contain_text("Must be")


def test_a_missing_input_is_reported_at_its_field(page: Page) -> None:
    choose(page, "pictures")
    control(page, "prompt").fill("")
    run(page)
    expect(control(page, "prompt")).to_be_focused()
    expect(field(page, "prompt")).to_contain_text("prompt is required")


def test_faults_that_the_model_finds_are_shown_at_their_fields_too(page: Page) -> None:
    choose(page, "pictures")
    control(page, "strength").fill("-1")
    run(page)
    expect(field(page, "strength")).to_contain_text("is out of range (0 to 1); try 0", timeout=END)
    expect(field(page, "size")).to_contain_text("size=16 is only a test")


@pytest.mark.parametrize(("size", "kind"), [(200_000, "data:"), (300_000, "http://127.0.0.1")])
def test_a_file_is_sent_with_the_inputs_or_uploaded_if_it_is_large(
    page: Page, server: ApiServer, size: int, kind: str
) -> None:
    content = bytes(range(250)) * (size // 250)
    choose(page, "pictures")
    page.set_input_files("#fields input[type=file]", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": content})
    expect(field(page, "init_video")).to_contain_text(f"a.mp4, {size // 1000} kB")
    run_to_the_end(page, "pictures", steps="1")
    newest = server.http.get("/predictions").json()["results"][0]
    assert newest["input"]["init_video"].startswith(kind) or size < 256_000
    assert hashlib.sha256(content).hexdigest() in server.get(newest["id"])["logs"]
    uploads = [file["size"] for file in server.http.get("/files").json()["results"]]
    assert (size in uploads) == (size > 256 * 1024)


def test_a_run_needs_no_file_whose_upload_failed_and_which_was_removed(page: Page, server: ApiServer) -> None:
    choose(page, "pictures")
    page.route("**/files", lambda route: route.fulfill(status=500))
    file = {"name": "a.mp4", "mimeType": "video/mp4", "buffer": bytes(300_000)}
    page.set_input_files("#fields input[type=file]", file)
    expect(field(page, "init_video")).to_contain_text("a.mp4 was not uploaded. The server answered 500")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("#notice")).to_contain_text("The server answered 500")
    field(page, "init_video").get_by_role("button", name="Remove the file").click()
    run_to_the_end(page, "pictures", steps="1", prompt="without the file")
    newest = server.http.get("/predictions").json()["results"][0]
    assert newest["input"]["prompt"] == "without the file"
    assert "init_video" not in newest["input"]


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_file_may_be_dropped_or_pasted_and_its_preview_plays(page: Page, event: str) -> None:
    clip = ROOT / "animate-diff" / "examples" / "red-circle-moving-right.mp4"
    choose(page, "pictures")
    page.evaluate(
        """async ([kind, bytes]) => {
            const data = new DataTransfer(), name = {drop: "dataTransfer", paste: "clipboardData"}[kind];
            data.items.add(new File([new Uint8Array(bytes)], "clip.mp4", {type: "video/mp4"}));
            const Kind = {drop: DragEvent, paste: ClipboardEvent}[kind];
            document.querySelector("#input-init_video").dispatchEvent(
                new Kind(kind, {bubbles: true, cancelable: true, [name]: data}));
        }""",
        [event, list(clip.read_bytes())],
    )
    preview = field(page, "init_video").locator("video")
    expect(preview).to_be_visible()
    preview.evaluate("video => new Promise(seen => video.ontimeupdate = () => video.currentTime > 0 && seen())")
    field(page, "init_video").get_by_role("button", name="Remove the file").click()
    expect(preview).to_have_count(0)
