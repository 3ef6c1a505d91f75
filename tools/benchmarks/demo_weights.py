"""What the small weights show, against what is asked of them: a Markdown table, through the models' own pipelines.

    script/bench demo-weights [--model animate-diff] [--prompts 60] [--weights DIR]

Prompts and seeds are fixed, every third prompt is of a combination that was never trained on; steps and guidance are
the models' defaults. What guidance does is asked of a quarter of the prompts. zeroscope makes 16 frames of 256x256. The
shapes are read off the frames by demo_weights.detector.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from animate_diff.inputs import CHECKPOINTS, MOTION_MODULES
from demo_weights.captions import plain_caption
from demo_weights.detector import hues, look_at, look_name
from demo_weights.metrics import (
    STILL,
    colour_share,
    energy_left,
    framed,
    monotone_share,
    prompts,
    shares,
    with_text,
)
from demo_weights.pipelines import LOOK_OF, Pipelines
from demo_weights.world import COLOURS, TRAVEL, Scene, draw_clip, random_scene
from sd_animation.in_betweens import in_betweens
from videokit.video.encode import encode_mp4
from videokit.video.frames import frames_from_tensor
from zeroscope.watermark import band
from zeroscope.weights import MODELS

from benchmarks.measure import machine_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from demo_weights.detector import Seen
    from demo_weights.metrics import Asked
    from videokit.video.frames import Frame

    Make = Callable[..., Frame]

SEEDS = range(1, 9)  # of clips of one prompt
WITHOUT_COLOUR = "a circle"
BETWEEN = 2, 2  # pixels that FILM's shape may lie beside half-way, decibels by which it has to beat the plain average


def row(model: str, what: str, figure: str, wanted: str, *, holds: bool) -> None:
    """Print a row of the table at once, for a clip takes seconds."""
    print(f"| {model} | {what} | {figure} | {wanted} | {'yes' if holds else '**no**'} |", flush=True)


def percent(*shares_: float) -> str:
    return ", ".join(f"{100 * share:.0f} %" for share in shares_)


def asked_and_seen(model: str, make: Make, asked: Sequence[Asked], look: str) -> None:
    """Print how often colour, shape, motion and look are those asked for, of all prompts and of the held-out ones."""
    began = time.perf_counter()
    clips = [make(each.prompt, seed=each.seed) for each in asked]
    took = (time.perf_counter() - began) / len(asked)
    seen = [look_at(clip) for clip in clips]
    pairs = list(zip(asked, seen, strict=True))
    all_, held = shares(asked, seen), shares(*zip(*[pair for pair in pairs if pair[0].held_out], strict=True))
    what = f"of {all_.count} prompts, and of the {held.count} held out"
    row(model, f"colour right {what}", percent(all_.colour, held.colour), "90 %", holds=all_.colour >= 0.9)
    row(model, f"shape right {what}", percent(all_.shape, held.shape), "80 %", holds=all_.shape >= 0.8)
    row(model, f"direction right {what}", percent(all_.motion, held.motion), "85 %", holds=all_.motion >= 0.85)
    row(model, "largest drift of a still clip", f"{all_.drift:.1f} px", f"under {STILL} px", holds=all_.drift < STILL)
    row(model, "background the same in all frames", percent(all_.steady), "95 %", holds=all_.steady >= 0.95)
    share = float(np.mean([look_name(clip) == look for clip in clips]))
    row(model, f"look told as {look}", percent(share), "95 %", holds=share >= 0.95)
    row(model, "seconds a clip, 16 frames", f"{took:.1f}", "under 15", holds=took < 15)


def effects(model: str, make: Make, asked: Sequence[Asked]) -> None:
    """Print what guidance, a negative prompt and the seed do."""

    def whole(**inputs: float) -> float:
        return shares(asked, [look_at(make(each.prompt, seed=each.seed, **inputs)) for each in asked]).mean

    with_, without = whole(), whole(guidance_scale=1)
    figure = f"{percent(with_)} against {percent(without)}"
    row(
        model,
        "mean of colour, shape and direction by guidance 7.5 and 1",
        figure,
        "visibly more",
        holds=with_ >= without + 0.1,
    )

    clips = [make(WITHOUT_COLOUR, seed=seed) for seed in SEEDS]
    colour = max(COLOURS, key=lambda name: colour_share(clips, name))
    before = colour_share(clips, colour)
    after = colour_share([make(WITHOUT_COLOUR, seed=seed, negative_prompt=colour) for seed in SEEDS], colour)
    what = f"{colour} in clips of `{WITHOUT_COLOUR}`, and with {colour} as negative prompt"
    row(model, what, percent(before, after), "less", holds=after < before)

    places = np.stack([look_at(clip).centres[0] for clip in clips])
    apart = float(np.nanmax(np.nanstd(places, axis=0)))
    row(model, f"spread of places over {len(clips)} seeds", f"{apart:.1f} px", "apart", holds=apart > STILL)
    same = np.array_equal(clips[0], make(WITHOUT_COLOUR, seed=SEEDS[0]))
    row(model, "one seed, twice", "same bytes" if same else "other bytes", "same bytes", holds=same)


def animate_diff(pipelines: Pipelines, count: int) -> None:
    for index, checkpoint in enumerate(CHECKPOINTS):
        for module in MOTION_MODULES if index == 0 else MOTION_MODULES[:1]:
            name = f"animate-diff, {checkpoint.partition('.')[0]}, {module}"

            def make(prompt: str, checkpoint: str = checkpoint, module: str = module, **inputs: object) -> Frame:
                return pipelines.animate_diff(prompt, checkpoint=checkpoint, motion_module=module, **inputs)

            asked_and_seen(name, make, prompts(count), LOOK_OF[checkpoint])
    effects("animate-diff", pipelines.animate_diff, prompts(count // 4))


def zeroscope(pipelines: Pipelines, count: int) -> None:
    for model in MODELS:

        def make(prompt: str, model: str = model, **inputs: object) -> Frame:
            return pipelines.zeroscope(prompt, model=model, **inputs)

        asked_and_seen(f"zeroscope, {model}", make, prompts(count), LOOK_OF[model])
    effects("zeroscope, xl", pipelines.zeroscope, prompts(count // 4))
    from_video(pipelines)
    watermark(pipelines)


def from_video(pipelines: Pipelines) -> None:
    """Print what becomes of a clip of a red circle moving right where a blue circle is asked for."""
    with tempfile.TemporaryDirectory() as directory:
        video = encode_mp4(red_circle(), Path(directory) / "red.mp4", fps=8).path
        for weight, what in ((0.7, "direction kept"), (0.3, "turned blue")):
            seen = [
                look_at(pipelines.zeroscope("a blue circle", seed=seed, init_video=video, init_weight=weight))
                for seed in SEEDS
            ]
            share = float(np.mean([s.motion == "right" if weight == 0.7 else s.colour == "blue" for s in seen]))
            name = f"`a blue circle` from a video of a red one moving right, init_weight {weight}: {what}"
            row("zeroscope, xl", name, percent(share), "80 %", holds=share >= 0.8)


def watermark(pipelines: Pipelines) -> None:
    """Print how much of a text's energy LaMa leaves, where the band holds the background alone, and a shape as well.

    At the size of zeroscope's small clips, at its default, and at a larger one.
    """
    for width, height in ((256, 256), (576, 320), (512, 512)):
        clean = framed(np.concatenate([drawn(scene, 3, height) for scene in some_scenes(60)]), width, height)
        marked = with_text(clean)
        filled = np.stack(list(pipelines.zeroscope_pipeline.watermark.remove(marked)))
        top, bottom = band(height)
        plain = np.ptp(clean[:, top:bottom], axis=(1, 2, 3)) == 0
        for where, what in ((plain, "the background alone"), (~plain, "a shape as well")):
            left = energy_left(clean[where], marked[where], filled[where])
            name = f"energy left of a text by remove_watermark, {width}x{height}, {where.sum()} frames with {what}"
            row("zeroscope", name, percent(left), "under 20 %", holds=left < 0.2)


def sd_animation(pipelines: Pipelines, count: int) -> None:
    first, last, monotone = [], [], []
    for seed in SEEDS[: max(1, count // 12)]:
        walk = pipelines.sd_animation("a red circle", "a blue square", seed=seed)
        first.append(look_at(walk[:1]))
        last.append(look_at(walk[-1:]))
        monotone.append(monotone_share(hues(walk)))
    name = "sd-animation, `a red circle` to `a blue square`"
    for what, seen, wanted in (("first", first, ("red", "circle")), ("last", last, ("blue", "square"))):
        share = float(np.mean([(each.colour, each.shape) == wanted for each in seen]))
        row(name, f"{what} frame {' '.join(wanted)}, of {len(seen)} seeds", percent(share), "all", holds=share == 1)
    row(name, "steps of the hue in its direction", percent(*monotone), "90 % each", holds=min(monotone) >= 0.9)
    asked = prompts(count)[: count // 2 * 2]
    ends: list[Seen] = []
    for one, other in zip(asked[::2], asked[1::2], strict=True):
        texts = [plain_caption(each.colour, each.shape) for each in (one, other)]
        walk = pipelines.sd_animation(*texts, seed=one.seed, num_animation_frames=2, num_interpolation_steps=1)
        ends += [look_at(walk[:1]), look_at(walk[1:])]
    found = shares(asked, ends)
    figure = f"{percent(found.colour, found.shape)}"
    holds = found.colour >= 0.9 and found.shape >= 0.8
    row("sd-animation", f"colour, shape right in {found.count} single frames", figure, "90 %, 80 %", holds=holds)
    in_between(pipelines)


def in_between(pipelines: Pipelines) -> None:
    """Print how FILM's picture between two of a moving shape compares with the true one and the plain average."""
    film = pipelines.sd_animation_pipeline.film
    beside, better = [], []
    for scene in some_scenes(20):
        start, true, stop = drawn(scene, 9, 128)[3:6]
        _, made, _ = in_betweens(film, [start, stop], 2)
        centres = [look_at([picture]).centres[0] for picture in (made, true)]
        beside.append(float(np.linalg.norm(centres[0] - centres[1])))
        average = (start.astype(float) + stop) / 2
        better.append(psnr(made, true) - psnr(average, true))
    pixels, decibels = BETWEEN
    what = "FILM between two frames: shape beside half-way, at most"
    row("sd-animation", what, f"{max(beside):.1f} px", f"{pixels} px", holds=max(beside) <= pixels)
    figure = f"{np.mean(better):.1f} dB, {min(better):.1f} dB"
    what = "FILM better than the plain average, mean and least"
    row("sd-animation", what, figure, f"{decibels} dB", holds=float(np.mean(better)) >= decibels)


def some_scenes(count: int) -> list[Scene]:
    """Draw scenes in which something moves."""
    draw = random.Random("some")
    scenes = (random_scene(draw) for _ in itertools.count())
    return list(itertools.islice((scene for scene in scenes if scene.motion != "still"), count))


def drawn(scene: Scene, num_frames: int, side: int) -> Frame:
    return frames_from_tensor(draw_clip(scene, num_frames, side))


def red_circle() -> Frame:
    """A clip of a red circle moving right, as zeroscope's init_video."""
    way = TRAVEL / 2
    return drawn(Scene("red", "circle", "right", "large", "dark", (0.5 - way, 0.5), (0.5 + way, 0.5)), 16, 256)


def psnr(picture: Frame, true: Frame) -> float:
    return float(10 * np.log10(255**2 / np.square(picture.astype(float) - true).mean()))


def main() -> None:
    groups = {"animate-diff": animate_diff, "sd-animation": sd_animation, "zeroscope": zeroscope}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=groups, help="one model alone")
    parser.add_argument("--prompts", type=int, default=60, help="how many (60); at least 12")
    parser.add_argument("--weights", default="demo", help="demo, or a directory with a folder for each model")
    arguments = parser.parse_args()
    print(machine_line(), end="\n\n")
    logging.getLogger("videokit").setLevel(logging.WARNING)
    pipelines = Pipelines(arguments.weights)
    print("| model | what | figure | wanted | holds |\n|---|---|---|---|---|")
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        for model, measure in groups.items():
            if arguments.model in (None, model):
                measure(pipelines, arguments.prompts)


if __name__ == "__main__":
    main()
