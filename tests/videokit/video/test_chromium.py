"""Our files play in a real browser: Chromium loads them from a local server and reports what it decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pictures
from chromium import report_of_chromium
from playwright.sync_api import Browser
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.provenance import Provenance

if TYPE_CHECKING:
    from pathlib import Path

PROVENANCE = Provenance("animate-diff", {"prompt": "a red circle" * 1000}, 1, "videokit")
PLAY = """
const video = document.createElement("video");
video.muted = true;
video.onerror = () => report({error: video.error.message});
video.onended = () => report({
    width: video.videoWidth, height: video.videoHeight, duration: video.duration, at: video.currentTime,
});
video.src = "/file";
video.play();
"""
DECODE = """
(async () => {
    const decoder = new ImageDecoder({type: "image/gif", data: (await fetch("/file")).body});
    await decoder.completed;
    const track = decoder.tracks.selectedTrack, durations = [];
    for (let frameIndex = 0; frameIndex < track.frameCount; frameIndex++) {
        durations.push((await decoder.decode({frameIndex})).image.duration);
    }
    return {durations, forever: track.repetitionCount === Infinity};
})().catch(error => ({error: String(error)})).then(report);
"""


def test_chromium_plays_an_mp4_to_its_end(browser: Browser, tmp_path: Path) -> None:
    clip = encode_mp4(pictures.natural(16, 256, 128), tmp_path / "clip.mp4", fps=16, provenance=PROVENANCE)
    report = report_of_chromium(browser, PLAY, {"/file": ("video/mp4", clip.path.read_bytes())})
    assert report == {"width": 256, "height": 128, "duration": 1, "at": 1}


def test_chromium_decodes_every_frame_of_a_gif_with_its_duration_and_loops_forever(
    browser: Browser, tmp_path: Path
) -> None:
    clip = encode_gif(pictures.gradient(6, 64, 64), tmp_path / "clip.gif", fps=30, provenance=PROVENANCE)
    report = report_of_chromium(browser, DECODE, {"/file": ("image/gif", clip.path.read_bytes())})
    # microseconds, as in WebCodecs
    assert report == {"durations": [30_000, 40_000, 30_000, 30_000, 40_000, 30_000], "forever": True}
