"""Our files play in a real browser: Chromium loads them from a local server and posts what it decoded."""

from __future__ import annotations

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import TYPE_CHECKING

import pictures
from programs import needs
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.provenance import Provenance

if TYPE_CHECKING:
    from pathlib import Path

PROVENANCE = Provenance("animate-diff", {"prompt": "a red circle" * 1000}, 1, "videokit")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio"),
]
REPORT = "const report = result => fetch('/report', {method: 'POST', body: JSON.stringify(result)});"
PLAY = (
    REPORT
    + """
const video = document.createElement("video");
video.muted = true;
video.onerror = () => report({error: video.error.message});
video.onended = () => report({
    width: video.videoWidth, height: video.videoHeight, duration: video.duration, at: video.currentTime,
});
video.src = "/file";
video.play();
"""
)
DECODE = (
    REPORT
    + """
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
)


def report_of_chromium(file: Path, kind: str, script: str, profile: Path) -> dict:
    """Load a page that runs `script` on `file`, and return what the script reports."""
    chromium = needs("chromium")
    reports: Queue[dict] = Queue()

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = f"<!doctype html><body><script>{script}</script>".encode()
            body, content_type = (file.read_bytes(), kind) if self.path == "/file" else (page, "text/html")
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        page = f"http://127.0.0.1:{server.server_port}/"
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", page]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return reports.get(timeout=120)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
            thread.join()


def test_chromium_plays_an_mp4_to_its_end(tmp_path: Path) -> None:
    clip = encode_mp4(pictures.natural(16, 256, 128), tmp_path / "clip.mp4", fps=16, provenance=PROVENANCE)
    report = report_of_chromium(clip.path, "video/mp4", PLAY, tmp_path / "profile")
    assert report == {"width": 256, "height": 128, "duration": 1, "at": 1}


def test_chromium_decodes_every_frame_of_a_gif_with_its_duration_and_loops_forever(tmp_path: Path) -> None:
    clip = encode_gif(pictures.gradient(6, 64, 64), tmp_path / "clip.gif", fps=30, provenance=PROVENANCE)
    report = report_of_chromium(clip.path, "image/gif", DECODE, tmp_path / "profile")
    # microseconds, as in WebCodecs
    assert report == {"durations": [30_000, 40_000, 30_000, 30_000, 40_000, 30_000], "forever": True}
