"""A file of each model, made again by script/predict --from in another process: the same bytes."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile_videos import draw_number, write_clip
from served import Served, file
from tree import ROOT
from videokit.video.provenance import read_provenance

PROGRAM = """
import sys
from pathlib import Path
from cog_local.predict import predict
model, source, target, weights, *pairs = sys.argv[1:]
sys.exit(predict(Path(model), pairs, None, Path(target), weights, Path(source), verbose=True))
"""
DEMO = ROOT / "animate-diff" / "demo-weights"


@dataclass
class Again:
    """The files of a prediction and its log."""

    paths: list[Path]
    log: str


def make(served: Served, directory: Path, **inputs: Any) -> list[Path]:
    """Return the files of a prediction with a random seed."""
    answer = served.server.predict(inputs)
    assert answer["status"] == "succeeded", answer
    outputs = answer["output"] if isinstance(answer["output"], list) else [answer["output"]]
    paths = []
    for index, (media_type, content) in enumerate(map(file, outputs)):
        paths.append(directory / f"first-{index}.{media_type.partition('/')[2]}")
        paths[-1].write_bytes(content)
    return paths


def make_again(source: Path, model: str, *pairs: str, **environ: str) -> list[bytes]:
    """Return the contents of the files that script/predict --from writes; `environ` is that of the first server."""
    return [path.read_bytes() for path in run_again(source, model, *pairs, **environ).paths]


def run_again(source: Path, model: str, *pairs: str, weights: str = "demo", **environ: str) -> Again:
    """Return what script/predict --from writes."""
    directory = source.parent / "again"
    directory.mkdir()
    program = [sys.executable, "-c", PROGRAM, ROOT / model, source, directory / "clip", weights, *pairs]
    environ = {**os.environ, "PYTHONPATH": ":".join(map(str, sys.path)), **environ}
    done = subprocess.run(program, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Again(sorted(directory.iterdir()), done.stderr)


def test_animate_diff_with_a_textual_inversion(animate_diff: Served, tmp_path: Path) -> None:
    (mp4,) = make(animate_diff, tmp_path, prompt='a "red" circle, é 漢字 🎈', n_prompt="Red_Circle", steps=2, seed=0)
    digest = hashlib.sha256((DEMO / "embeddings" / "red_circle.safetensors").read_bytes()).hexdigest()
    stated = read_provenance(mp4).textual_inversions
    assert stated == ({"name": "red_circle", "vectors": 1, "sha256": digest},)
    done = run_again(mp4, "animate-diff")
    assert [path.read_bytes() for path in done.paths] == [mp4.read_bytes()]
    assert "textual inversion: red_circle, 1 vector, " in done.log
    assert "so the files may differ" not in done.log


def test_other_textual_inversions_are_named(animate_diff: Served, tmp_path: Path) -> None:
    (mp4,) = make(animate_diff, tmp_path, prompt="a circle", n_prompt="red_circle", steps=1, seed=1)
    weights = shutil.copytree(DEMO, tmp_path / "weights", ignore=shutil.ignore_patterns("embeddings"))
    done = run_again(mp4, "animate-diff", weights=str(weights))
    assert f"{mp4} is of the textual inversions red_circle (vectors: 1, SHA-256 " in done.log
    assert "is of no textual inversions, so the files may differ" in done.log


def test_sd_animation(sd_animation: Served, tmp_path: Path) -> None:
    inputs = {"prompt_start": "a red circle", "prompt_end": "a blue square|a", "width": 128, "height": 128}
    counts = {"num_animation_frames": 2, "num_interpolation_steps": 2, "num_inference_steps": 2}
    paths = make(sd_animation, tmp_path, **inputs, **counts, intermediate_output=True)
    assert [path.suffix for path in paths] == [".png"] * 4 + [".gif"]
    assert make_again(paths[0], "sd-animation", OMP_NUM_THREADS="1") == [path.read_bytes() for path in paths]
    assert read_provenance(paths[-1]).inputs == read_provenance(paths[0]).inputs  # so the GIF gives the same files
    assert read_provenance(paths[-1]).seed == read_provenance(paths[0]).seed


def test_zeroscope(zeroscope: Served, tmp_path: Path) -> None:
    video = write_clip(tmp_path / "video.mp4", (draw_number(index, 96, 64) for index in range(4)))
    small = {"width": 256, "height": 256, "num_frames": 2, "num_inference_steps": 2, "batch_size": 2}
    data = "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()
    _, second = make(zeroscope, tmp_path, prompt="a red circle", init_video=data, **small)
    assert make_again(second, "zeroscope", f"init_video=@{video}", OMP_NUM_THREADS="1") == [second.read_bytes()]
