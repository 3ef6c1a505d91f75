"""Clips on the page: their inputs, made again, frame by frame, next to each other; and what is shown of a model."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pictures import natural
from playground_page import newest_prediction
from playwright.sync_api import Page, expect
from sd_animation.png import write_png
from tree import ROOT
from videokit.errors import InvalidInput
from videokit.video.provenance import read_provenance

ANIMATE_DIFF = "lucataco/animate-diff"
MP4 = ROOT / "animate-diff" / "examples" / "red-circle-moving-right.mp4"
GIF = ROOT / "sd-animation" / "examples" / "red-circle-to-blue-square.0.gif"
MP4_EXAMPLE = ("animate-diff", "a red circle", json.loads(MP4.with_suffix(".json").read_text())["metrics"]["frames"])
GIF_EXAMPLE = ("stable-diffusion-animation", "a blue square", 16)
READ = """async file => {
    const {readProvenance} = await import("/playground/provenance.js");
    const bytes = Uint8Array.from(atob(file), letter => letter.charCodeAt(0));
    return (await readProvenance(new Blob([bytes])))?.inputs ?? null;
}"""
DROP = """bytes => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([new Uint8Array(bytes)], "clip"));
    document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true}));
}"""
# Whether the clips play, and the times of the clips differ by less than their frame of 1/8 s, in 60 frames of the
# screen one after the other. A busy machine delays a clip for a moment, and the next 60 frames count.
IN_STEP = """() => new Promise(resolve => {
    let count = 0, first;
    const clips = [...document.querySelectorAll("dialog video")];
    const look = () => {
        const times = clips.map(clip => clip.currentTime);
        const inStep = Math.max(...times) - Math.min(...times) < 1 / 8;
        if (!inStep || !count) first = times[0];
        count = inStep ? count + 1 : 0;
        if (count > 60 && times[0] !== first) resolve(true); else requestAnimationFrame(look);
    };
    look();
})"""


@pytest.fixture(scope="module")
def two_runs(models_url: str) -> list[Any]:
    """Return two predictions that differ in their seeds."""
    url = f"{models_url}/v1/models/{ANIMATE_DIFF}/predictions"
    predictions = []
    for seed in (5, 6):
        httpx.post(
            url, json={"input": {"prompt": "a red circle", "steps": 1, "seed": seed}}, timeout=60
        ).raise_for_status()
        predictions.append(newest_prediction(models_url))
    return predictions


def test_a_clip_given_to_the_page_is_made_again_byte_for_byte(
    open_page: Callable[..., Page], models_url: str, two_runs: list[Any], tmp_path: Path
) -> None:
    content = httpx.get(two_runs[0]["output"], timeout=60).content
    (tmp_path / "clip.mp4").write_bytes(content)
    page = open_page(models_url)
    page.get_by_role("tab", name="zeroscope-v2-xl").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="From a clip").click()
    chooser.value.set_files(tmp_path / "clip.mp4")
    page.get_by_role("tab", name="animate-diff", selected=True).wait_for()
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("#clip clip-player").wait_for()
    again = newest_prediction(models_url)
    assert again["id"] != two_runs[1]["id"]
    assert httpx.get(again["output"], timeout=60).content == content


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_a_dropped_picture_fills_the_form(
    open_page: Callable[..., Page], models_url: str, tmp_path: Path, kind: str
) -> None:
    page = open_page(models_url)
    page.get_by_role("tab", name="animate-diff").wait_for()
    png = write_png(next(natural(1, 32, 32)), tmp_path / "one.png", read_provenance(GIF))
    page.evaluate(DROP, list((GIF if kind == "gif" else png).read_bytes()))
    expect(page.locator("#input-prompt_end")).to_have_value("a blue square")
    expect(page.locator("#input-seed")).to_have_value("2")


def test_damaged_files_state_what_the_reader_in_python_finds(
    open_page: Callable[..., Page], models_url: str, tmp_path: Path
) -> None:
    page = open_page(models_url)
    png = write_png(next(natural(1, 32, 32)), tmp_path / "one.png", read_provenance(GIF))
    chance, path = random.Random(0), tmp_path / "damaged"
    for source in [MP4, GIF, png] * 30:
        content = bytearray(source.read_bytes())
        content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.randrange(len(content)) if chance.random() < 0.5 else None])
        try:
            expected = dict(read_provenance(path).inputs)
        except InvalidInput:
            expected = None
        assert page.evaluate(READ, base64.b64encode(path.read_bytes()).decode()) == expected


def test_a_clip_is_stepped_through_frame_by_frame(open_page: Callable[..., Page], models_url: str) -> None:
    page = open_page(models_url)
    for model, example, frames in (MP4_EXAMPLE, GIF_EXAMPLE):
        page.get_by_role("tab", name=model).click()
        page.get_by_role("tab", name="About").click()
        page.get_by_role("list", name="Examples").get_by_role("button", name=example).click()
        page.get_by_role("slider", name="Frame", exact=True).fill("4")
        page.get_by_role("button", name="Next frame").click()
        expect(page.locator("#clip .frame")).to_have_text(f"6/{frames}")
        page.get_by_role("button", name="Previous frame").click(click_count=2)
        expect(page.locator("#clip .frame")).to_have_text(f"4/{frames}")


def test_compared_clips_play_in_step_and_differing_inputs_are_marked(
    open_page: Callable[..., Page], models_url: str, two_runs: list[Any]
) -> None:
    page = open_page(models_url)
    for prediction in two_runs:
        page.locator(f'[data-id="{prediction["id"]}"]').get_by_label("Compare").check()
    page.get_by_role("button", name="Compare 2").click()
    dialog = page.get_by_role("dialog", name="Comparison")
    expect(dialog.locator("video")).to_have_count(2)
    page.wait_for_function(IN_STEP, timeout=60_000)
    assert dialog.locator("mark").all_inner_texts() == ["5", "6"]


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_the_readme_of_a_model_is_not_wider_than_the_page(
    open_page: Callable[..., Page], models_url: str, width: int
) -> None:
    page = open_page(models_url, viewport={"width": width, "height": 900})
    for model in ("animate-diff", "stable-diffusion-animation", "zeroscope-v2-xl"):
        page.get_by_role("tab", name=model).click()
        page.get_by_role("tab", name="About").click()
        expect(page.get_by_role("article").get_by_role("heading", name="Inputs", exact=True)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width, model


def test_an_example_of_a_model_fills_the_form_and_its_readme_is_shown(
    open_page: Callable[..., Page], models_url: str
) -> None:
    page = open_page(models_url)
    page.get_by_role("tab", name="stable-diffusion-animation").click()
    page.get_by_role("tab", name="About").click()
    expect(page.get_by_role("article").get_by_role("heading", name="Inputs", exact=True)).to_be_visible()
    page.get_by_role("list", name="Examples").get_by_role("button", name="a blue square").click()
    expect(page.locator("#input-prompt_end")).to_have_value("a blue square")
    expect(page.locator("#clip canvas")).to_be_visible()
