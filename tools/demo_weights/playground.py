"""The picture of the playground in the root README: headless Chromium, after real runs with the demo weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from playwright.sync_api import expect, sync_playwright
from tree import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import ViewportSize

RUNS = (
    ("a red circle moving right", "toonyou_beta3.safetensors", "2"),
    ("a purple circle moving up", "lyriel_v16.safetensors", "10"),
    ("a yellow cross moving left", "majicmixRealistic_v5Preview.safetensors", "1"),
)
WINDOW: ViewportSize = {"width": 1280, "height": 820}
MINUTES = 10  # for a run, on a busy machine


def write_playground(target: Path) -> None:
    """Run animate-diff for each of RUNS, and write what the page then shows to a PNG file."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, str(ROOT / "script" / "serve"), "--port", "0", "--data", data]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            assert server.stdout is not None
            _write_page(server.stdout.readline().split(" is ready at ")[1].split()[0], target)
            server.terminate()


def _write_page(url: str, target: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium-headless-shell"))
        page = browser.new_page(viewport=WINDOW, reduced_motion="reduce")  # clips then stay at a frame
        page.goto(url)
        page.get_by_role("button", name="Defaults").click()
        for prompt, path, seed in RUNS:
            page.locator("#input-prompt").fill(prompt)
            page.locator("#input-path").select_option(path)
            page.locator("#input-seed").fill(seed)
            page.get_by_role("button", name="Run", exact=True).click()
            card = page.locator("#gallery .card", has_text=prompt)
            expect(card).to_contain_text(f"seed {seed}", timeout=MINUTES * 60_000)
        page.locator("#gallery").scroll_into_view_if_needed()
        page.wait_for_timeout(3000)  # until the clips of the history are drawn
        page.get_by_role("slider", name="Frame", exact=True).fill("8")
        page.evaluate('scrollTo(0, 0); document.querySelector("#form").scrollTop = 0')
        page.wait_for_timeout(1000)  # until the frame is drawn
        page.screenshot(path=target, full_page=True)
        browser.close()
