"""The code that the page shows makes the clip of the form, also with inputs that need quoting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playground_page import newest_prediction
from playwright.sync_api import Page
from programs import needs, npm_directory
from tree import ROOT

MODEL = "lucataco/animate-diff"
CLIPBOARD = ["clipboard-read", "clipboard-write"]
INPUT: dict[str, Any] = {
    "prompt": "it's \"a\" $(touch ran) `touch ran` $HOME \\n {0} %s ${x}\nJSON\n'JSON'\n# é 漢字 😀 \u2028 </script>",
    "n_prompt": "null",
    "steps": 1,
    "seed": 3,
}


def copy(page: Page, button: str) -> str:
    """Press a button, and return the text that it copies."""
    page.get_by_role("button", name=button, exact=True).click()
    page.get_by_role("button", name="Copied", exact=True).wait_for()
    return str(page.evaluate("navigator.clipboard.readText()"))


def run(language: str, code: str, url: str, directory: Path, javascript: Path) -> None:
    """Run code in a directory, as its reader would."""
    if language == "JSON":
        body = {"input": json.loads(code)}
        httpx.post(f"{url}/v1/models/{MODEL}/predictions", json=body, timeout=60).raise_for_status()
        return
    (directory / "script").symlink_to(ROOT / "script")
    script = javascript / "snippet.mjs"
    script.write_text(code)
    commands = {"Python": [sys.executable, "-c", code], "JavaScript": [needs("node"), script]}
    environ = {**os.environ, "REPLICATE_API_TOKEN": "any"}
    subprocess.run(commands.get(language, ["sh", "-euc", code]), cwd=directory, env=environ, check=True, timeout=120)


@pytest.mark.parametrize("language", ["Python", "JavaScript", "curl", "script/predict", "JSON"])
def test_copied_code_makes_the_clip_of_the_form(
    language: str, open_page: Callable[..., Page], models_url: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    page = open_page(models_url, permissions=CLIPBOARD)
    page.get_by_role("tab", name="animate-diff", selected=True).wait_for()
    page.get_by_role("button", name="Defaults").click()
    for name, value in INPUT.items():
        page.locator(f"#input-{name}").fill(str(value))
    page.get_by_role("tab", name="Code").click()
    page.get_by_role("tab", name=language, exact=True).click()
    code = copy(page, "Copy")
    javascript = npm_directory(pytestconfig, "replicate-javascript", ROOT / "tests/predictions_api/javascript")
    run(language, code, models_url, tmp_path, javascript)
    prediction = newest_prediction(models_url)
    assert (prediction["status"], prediction["input"]) == ("succeeded", INPUT)
    saved = [path.read_bytes() for path in tmp_path.glob("*.mp4")]
    assert saved == ([] if language in ("curl", "JSON") else [httpx.get(prediction["output"], timeout=60).content])
    assert not (tmp_path / "ran").exists()


def test_a_link_opened_elsewhere_gives_the_same_form(open_page: Callable[..., Page], models_url: str) -> None:
    page = open_page(models_url, permissions=CLIPBOARD)
    page.get_by_role("tab", name="zeroscope-v2-xl").click()
    page.locator("#input-prompt").fill(INPUT["prompt"])
    page.locator("#input-remove_watermark").check()
    other = open_page(copy(page, "Copy link"))
    other.get_by_role("tab", name="zeroscope-v2-xl", selected=True).wait_for()
    values = "Array.from(document.forms[0].elements, field => [field.name, field.value, field.checked])"
    assert other.evaluate(values) == page.evaluate(values)
