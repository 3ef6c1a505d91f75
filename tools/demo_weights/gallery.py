"""The example clips of the READMEs: a model's name, three clips that its demo weights make, and their prompts."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from animate_diff.inputs import CHECKPOINTS
from PIL import Image, ImageDraw, ImageFont
from tree import package_of
from videokit.video.encode import encode_gif
from videokit.video.provenance import Provenance

from demo_weights.captions import plain_caption
from demo_weights.detector import detect

if TYPE_CHECKING:
    from pathlib import Path

    from videokit.video.encode import Clip
    from videokit.video.frames import Frame

    from demo_weights.pipelines import Pipelines

SEEDS = (1, 2)  # the one with the higher `score` is shown
FPS = 8
SIDE, MARGIN = 184, 12  # of a clip, in pixels
TITLE, LABEL = 40, 36  # heights
BACKGROUND, TEXT = (24, 28, 36), (230, 233, 240)  # the same on a light and on a dark page
CLIPS: dict[str, list[dict[str, str]]] = {  # the inputs of each clip, without the seed
    "animate-diff": [
        {"prompt": "a red circle moving right", "checkpoint": CHECKPOINTS[0]},
        {"prompt": "a blue square moving down", "checkpoint": CHECKPOINTS[1]},
        {"prompt": "a yellow cross moving left", "checkpoint": CHECKPOINTS[3]},
    ],
    "sd-animation": [
        {"prompt_start": "a red circle", "prompt_end": "a blue square"},
        {"prompt_start": "a green cross", "prompt_end": "a yellow cross"},
        {"prompt_start": "a white circle", "prompt_end": "a purple circle"},
    ],
    "zeroscope": [
        {"prompt": "a blue circle moving left", "model": "xl"},
        {"prompt": "a red square moving right", "model": "576w"},
        {"prompt": "a green circle moving up", "model": "animov-512x"},
    ],
}
MORE_INPUTS = {"sd-animation": {"num_animation_frames": 6, "num_interpolation_steps": 3}}  # 16 frames, as the others


def write_gallery(pipelines: Pipelines, model: str, target: Path) -> tuple[Clip, list[int]]:
    """Write a model's picture as a GIF, and return what was written and the seeds of its clips."""
    clips, seeds = [], []
    for inputs in CLIPS[model]:
        make_clip = partial(getattr(pipelines, package_of(model)), **inputs, **MORE_INPUTS.get(model, {}))
        by_seed = {seed: make_clip(seed=seed) for seed in SEEDS}
        seeds.append(max(SEEDS, key=lambda seed: score(inputs, by_seed[seed])))
        clips.append(by_seed[seeds[-1]])
    shown = [json.dumps({**inputs, "seed": seed}) for inputs, seed in zip(CLIPS[model], seeds, strict=True)]
    provenance = Provenance(model, {"clips": shown}, seeds[0], "script/gallery")
    frames = arrange(model, clips, [list(prompts_of(inputs)) for inputs in CLIPS[model]])
    return encode_gif(frames, target, fps=FPS, provenance=provenance), seeds


def prompts_of(inputs: dict[str, str]) -> list[str]:
    """Return the prompt of a clip, or its first and its last."""
    return [text for name, text in inputs.items() if name.startswith("prompt")]


def score(inputs: dict[str, str], clip: Frame) -> tuple[int, bool, float]:
    """Return how many prompts the detector reads from a clip, whether the background is steady, and the overlap."""
    prompts = prompts_of(inputs)
    seen = [detect(clip)] if len(prompts) == 1 else [detect(clip[:1]), detect(clip[-1:])]
    captions = [
        plain_caption(str(each.colour), str(each.shape), str(each.motion) if len(prompts) == 1 else "") for each in seen
    ]
    matches = sum(map(str.__eq__, captions, prompts))
    return matches, all(each.steady for each in seen), min(each.overlap for each in seen)


def arrange(title: str, clips: list[Frame], labels: list[list[str]]) -> Frame:
    """Return frames with a title above and a label below each clip. An arrow is drawn between two texts of a label."""
    size = MARGIN + len(clips) * (SIDE + MARGIN), TITLE + SIDE + LABEL
    card = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(card)
    draw.text((MARGIN, TITLE / 2), title, fill=TEXT, font=ImageFont.load_default(18), anchor="lm")
    lefts = [MARGIN + index * (SIDE + MARGIN) for index in range(len(clips))]
    for left, texts in zip(lefts, labels, strict=True):
        write_label(draw, left + SIDE / 2, TITLE + SIDE + LABEL / 2, texts)
    frames = np.repeat(np.asarray(card)[None], len(clips[0]), axis=0)
    for left, clip in zip(lefts, clips, strict=True):
        pictures = [Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for frame in clip]
        frames[:, TITLE : TITLE + SIDE, left : left + SIDE] = np.stack([np.asarray(picture) for picture in pictures])
    return frames


def write_label(draw: ImageDraw.ImageDraw, x: float, y: float, texts: list[str], arrow: float = 26) -> None:
    """Write texts in one line around (x, y), with arrows between them, which Pillow's font lacks."""
    font = ImageFont.load_default(13)
    x -= (sum(font.getlength(text) for text in texts) + arrow * (len(texts) - 1)) / 2
    for index, text in enumerate(texts):
        if index:
            tip = x + arrow - 6
            draw.line([(x + 6, y), (tip, y)], fill=TEXT)
            draw.line([(tip - 4, y - 4), (tip, y), (tip - 4, y + 4)], fill=TEXT)
            x += arrow
        draw.text((x, y), text, fill=TEXT, font=font, anchor="lm")
        x += font.getlength(text)
