"""The example clips of the READMEs: rows of clips that the demo weights make, with their prompts."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from animate_diff.inputs import CHECKPOINTS
from PIL import Image, ImageDraw, ImageFont
from videokit.video.encode import encode_gif
from videokit.video.provenance import Provenance
from zeroscope.weights import MODELS

if TYPE_CHECKING:
    from pathlib import Path

    from videokit.video.encode import Clip
    from videokit.video.frames import Frame

    from demo_weights.pipelines import Pipelines

SEED = 3
FPS = 8
SIDE = 88  # of a clip, in pixels
LABEL_HEIGHT = 28  # pixels below a clip, for two lines
LABEL_WIDTH = 18  # letters of a line
CLIPS: dict[str, list[tuple[dict[str, str], str]]] = {  # inputs and label of each clip
    "animate-diff": [
        ({"prompt": prompt, "checkpoint": checkpoint}, prompt)
        for checkpoint, prompt in zip(
            CHECKPOINTS,
            (
                "a red circle moving right",
                "a blue square moving down",
                "a green triangle moving up",
                "a yellow cross moving left",
                "a purple circle standing still",
            ),
            strict=True,
        )
    ],
    "sd-animation": [
        ({"prompt_start": f"a {start}", "prompt_end": f"a {end}"}, f"{start} to {end}")
        for start, end in (
            ("red circle", "blue square"),
            ("green cross", "yellow cross"),
            ("white circle", "purple circle"),
            ("orange square", "cyan square"),
            ("blue triangle", "red triangle"),
        )
    ],
    "zeroscope": [
        ({"prompt": prompt, "model": model}, prompt)
        for model, prompt in zip(
            (*MODELS, MODELS[0]),
            (
                "a blue circle moving left",
                "a red square moving right",
                "a yellow triangle moving down",
                "a green circle moving up",
                "a white cross standing still",
            ),
            strict=True,
        )
    ],
}
SD_ANIMATION: dict[str, Any] = {"num_animation_frames": 4, "num_interpolation_steps": 5}  # 16 frames, as the others


def write_gallery(pipelines: Pipelines, model: str, target: Path) -> Clip:
    """Write the row of a model's clips as a GIF, and return what was written."""
    row = [add_label(make_clip(pipelines, model, inputs), label) for inputs, label in CLIPS[model]]
    provenance = Provenance(model, {"clips": [inputs for inputs, _ in CLIPS[model]]}, SEED, "script/gallery")
    return encode_gif(np.concatenate(row, axis=2), target, fps=FPS, provenance=provenance)


def make_clip(pipelines: Pipelines, model: str, inputs: dict[str, str]) -> Frame:
    """Return 16 frames of SIDE pixels, (F, SIDE, SIDE, 3)."""
    if model == "sd-animation":
        clip = pipelines.sd_animation(**inputs, seed=SEED, **SD_ANIMATION)
    else:
        clip = {"animate-diff": pipelines.animate_diff, "zeroscope": pipelines.zeroscope}[model](**inputs, seed=SEED)
    pictures = [Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for frame in clip]
    return np.stack([np.asarray(picture) for picture in pictures])


def add_label(frames: Frame, text: str) -> Frame:
    """Return the frames with a text below each."""
    strip = Image.new("RGB", (SIDE, LABEL_HEIGHT), "white")
    font, lines = ImageFont.load_default(10), textwrap.fill(text, LABEL_WIDTH)
    centre = SIDE / 2, LABEL_HEIGHT / 2
    ImageDraw.Draw(strip).text(centre, lines, fill="black", font=font, anchor="mm", align="center")
    below = np.broadcast_to(np.asarray(strip), (len(frames), LABEL_HEIGHT, SIDE, 3))
    return np.concatenate([frames, below], axis=1)
