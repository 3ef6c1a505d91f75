"""How well the demo weights follow prompts, against their requirements: a Markdown table, by the models' own pipelines.

    script/bench demo-weights [--model animate-diff] [--prompts 60] [--weights DIR]

Prompts and seeds are fixed; every third prompt has a held-out combination. At least 12 prompts are necessary. Steps and
guidance are the models' defaults. The effect of guidance is measured with a quarter of the prompts. zeroscope makes 16
frames of 256x256. demo_weights.detector reads the frames. DIR has a folder of weights for each model.

It takes about 2 hours on two idle cores.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from animate_diff.inputs import CHECKPOINTS, MOTION_MODULES
from demo_weights.captions import plain_caption
from demo_weights.detector import detect, detect_style, hues
from demo_weights.metrics import (
    MAX_STILL_DRIFT,
    accuracy,
    add_text,
    colour_share,
    monotone_share,
    pad_to_size,
    prompts,
    residual_energy,
)
from demo_weights.pipelines import STYLE_OF, Pipelines
from demo_weights.train.textual_inversion import NAME as INVERSION
from demo_weights.world import COLOURS, TRAVEL, Scene, draw_clip, random_scene
from sd_animation.interpolation import interpolate
from tree import script_parser
from videokit.video.encode import encode_mp4
from videokit.video.frames import frames_from_tensor
from zeroscope.watermark import band
from zeroscope.weights import MODELS

from benchmarks.measure import machine_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from demo_weights.detector import Detection
    from demo_weights.metrics import Prompt
    from numpy.typing import NDArray
    from videokit.video.frames import Frame

    MakeClip = Callable[..., Frame]

SEEDS = range(1, 9)  # of clips of one prompt
WITHOUT_COLOUR = "a circle"
MAX_FILM_OFFSET = 2  # pixels between FILM's shape and the true position
MIN_FILM_GAIN = 2  # dB over the plain average of the two frames


def print_row(model: str, measure: str, figure: str, required: str, *, holds: bool) -> None:
    print(f"| {model} | {measure} | {figure} | {required} | {'yes' if holds else '**no**'} |", flush=True)


def print_shares(model: str, measure: str, required: float, *shares: float) -> None:
    """Print a row with shares, of which the first is required to be `required`."""
    print_row(model, measure, percent(*shares), percent(required), holds=shares[0] >= required)


def percent(*shares: float) -> str:
    return ", ".join(f"{100 * share:.0f} %" for share in shares)


def print_accuracy(model: str, make_clip: MakeClip, chosen: Sequence[Prompt], style: str) -> None:
    """Print the shares of clips with the prompt's colour, shape, motion and style, of all and of held-out prompts."""
    started = time.perf_counter()
    clips = [make_clip(prompt.text, seed=prompt.seed) for prompt in chosen]
    seconds = (time.perf_counter() - started) / len(chosen)
    detections = [detect(clip) for clip in clips]
    pairs = zip(chosen, detections, strict=True)
    total = accuracy(chosen, detections)
    held_out = accuracy(*zip(*[pair for pair in pairs if pair[0].held_out], strict=True))
    suffix = f"of {total.count} prompts, and of the {held_out.count} held out"
    for name, required in (("colour", 0.9), ("shape", 0.8), ("motion", 0.85)):
        print_shares(model, f"{name} correct {suffix}", required, getattr(total, name), getattr(held_out, name))
    drift, limit = total.drift, MAX_STILL_DRIFT
    print_row(model, "largest drift of a still clip", f"{drift:.1f} px", f"under {limit} px", holds=drift < limit)
    print_shares(model, "same background in all frames", 0.95, total.steady)
    share = float(np.mean([detect_style(clip) == style for clip in clips]))
    print_shares(model, f"style detected as {style}", 0.95, share)
    print_row(model, "seconds a clip, 16 frames", f"{seconds:.1f}", "under 15", holds=seconds < 15)


def print_effects(model: str, make_clip: MakeClip, chosen: Sequence[Prompt]) -> None:
    """Print the effects of guidance, a negative prompt and the seed."""

    def mean_accuracy(**inputs: float) -> float:
        clips = (make_clip(prompt.text, seed=prompt.seed, **inputs) for prompt in chosen)
        return accuracy(chosen, map(detect, clips)).mean

    guided, unguided = mean_accuracy(), mean_accuracy(guidance_scale=1)
    measure = "mean of colour, shape and motion with guidance 7.5 and 1"
    print_row(model, measure, percent(guided, unguided), "10 points more", holds=guided >= unguided + 0.1)

    clips = [make_clip(WITHOUT_COLOUR, seed=seed) for seed in SEEDS]
    colour = max(COLOURS, key=lambda name: colour_share(clips, name))
    before = colour_share(clips, colour)
    after = colour_share([make_clip(WITHOUT_COLOUR, seed=seed, negative_prompt=colour) for seed in SEEDS], colour)
    measure = f"{colour} in clips of `{WITHOUT_COLOUR}`, and with {colour} as negative prompt"
    print_row(model, measure, percent(before, after), "less", holds=after < before)

    if model == "animate-diff":
        print_textual_inversion(model, make_clip)
    positions = np.stack([detect(clip).centres[0] for clip in clips])
    spread, limit = float(np.nanmax(np.nanstd(positions, axis=0))), MAX_STILL_DRIFT
    measure = f"standard deviation of positions over {len(clips)} seeds"
    print_row(model, measure, f"{spread:.1f} px", f"over {limit} px", holds=spread > limit)
    same = np.array_equal(clips[0], make_clip(WITHOUT_COLOUR, seed=SEEDS[0]))
    print_row(model, "one seed twice", "same bytes" if same else "other bytes", "same bytes", holds=same)


def print_textual_inversion(model: str, make_clip: MakeClip) -> None:
    """Print the share of red circles in clips of a prompt, alone and with the textual inversion as negative prompt."""

    def red_circles(prompt: str, **inputs: str) -> float:
        found = [detect(make_clip(prompt, seed=seed, **inputs)) for seed in SEEDS]
        return float(np.mean([(each.colour, each.shape) == ("red", "circle") for each in found]))

    print_shares(model, f"red circles in clips of `a {INVERSION}`", 0.9, red_circles(f"a {INVERSION}"))
    before, after = red_circles("a red"), red_circles("a red", negative_prompt=INVERSION)
    measure = f"red circles in clips of `a red`, and with {INVERSION} as negative prompt"
    print_row(model, measure, percent(before, after), "half", holds=after <= before / 2)


def animate_diff(pipelines: Pipelines, count: int) -> None:
    for index, checkpoint in enumerate(CHECKPOINTS):
        for module in MOTION_MODULES if index == 0 else MOTION_MODULES[:1]:
            name = f"animate-diff, {checkpoint.partition('.')[0]}, {module}"
            make_clip = partial(pipelines.animate_diff, checkpoint=checkpoint, motion_module=module)
            print_accuracy(name, make_clip, prompts(count), STYLE_OF[checkpoint])
    print_effects("animate-diff", pipelines.animate_diff, prompts(count // 4))


def zeroscope(pipelines: Pipelines, count: int) -> None:
    for model in MODELS:
        make_clip = partial(pipelines.zeroscope, model=model)
        print_accuracy(f"zeroscope, {model}", make_clip, prompts(count), STYLE_OF[model])
    print_effects("zeroscope, xl", pipelines.zeroscope, prompts(count // 4))
    print_init_video(pipelines)
    print_watermark(pipelines)


def print_init_video(pipelines: Pipelines) -> None:
    """Print what the prompt `a blue circle` makes of a video of a red circle moving right."""
    with tempfile.TemporaryDirectory() as directory:
        video = encode_mp4(red_circle(), Path(directory) / "red.mp4", fps=8).path
        for weight, attribute, value in ((0.7, "motion", "right"), (0.3, "colour", "blue")):
            clips = (
                pipelines.zeroscope("a blue circle", seed=seed, init_video=video, init_weight=weight) for seed in SEEDS
            )
            share = float(np.mean([getattr(detect(clip), attribute) == value for clip in clips]))
            measure = f"`a blue circle` from a video of a red one moving right, init_weight {weight}: {value}"
            print_shares("zeroscope, xl", measure, 0.8, share)


def print_watermark(pipelines: Pipelines) -> None:
    """Print how much of a text's energy LaMa leaves over the background and over a shape, at three sizes."""
    for width, height in ((256, 256), (576, 320), (512, 512)):
        clips = [drawn(scene, 3, height) for scene in moving_scenes(60)]
        clean = pad_to_size(np.concatenate(clips), width, height)
        marked = add_text(clean)
        filled = np.stack(list(pipelines.zeroscope_pipeline.watermark.remove(marked)))
        top, bottom = band(height)
        plain = np.ptp(clean[:, top:bottom], axis=(1, 2, 3)) == 0
        for mask, content in ((plain, "the background"), (~plain, "a shape")):
            left = residual_energy(clean[mask], marked[mask], filled[mask])
            measure = f"energy left of a text by remove_watermark, {width}x{height}, {mask.sum()} frames over {content}"
            print_row("zeroscope", measure, percent(left), "under 20 %", holds=left < 0.2)


def sd_animation(pipelines: Pipelines, count: int) -> None:
    seeds = SEEDS[: max(1, count // 12)]
    walks = [pipelines.sd_animation("a red circle", "a blue square", seed=seed) for seed in seeds]
    name = "sd-animation, `a red circle` to `a blue square`"
    for frame, index, expected in (("first", 0, ("red", "circle")), ("last", -1, ("blue", "square"))):
        detections = [detect([walk[index]]) for walk in walks]
        share = float(np.mean([(end.colour, end.shape) == expected for end in detections]))
        measure = f"{frame} frame {' '.join(expected)}, of {len(detections)} seeds"
        print_row(name, measure, percent(share), "all", holds=share == 1)
    monotone = [monotone_share(hues(walk)) for walk in walks]
    print_row(name, "steps of the hue in its direction", percent(*monotone), "90 % each", holds=min(monotone) >= 0.9)
    chosen = prompts(count)[: count // 2 * 2]
    ends: list[Detection] = []
    for start, end in zip(chosen[::2], chosen[1::2], strict=True):
        texts = [plain_caption(prompt.colour, prompt.shape) for prompt in (start, end)]
        walk = pipelines.sd_animation(*texts, seed=start.seed, num_animation_frames=2, num_interpolation_steps=1)
        ends += [detect(walk[:1]), detect(walk[1:])]
    total = accuracy(chosen, ends)
    measure, holds = f"colour, shape correct in {total.count} single frames", total.colour >= 0.9 and total.shape >= 0.8
    print_row("sd-animation", measure, percent(total.colour, total.shape), "90 %, 80 %", holds=holds)
    print_film(pipelines)


def print_film(pipelines: Pipelines) -> None:
    """Compare FILM's frame between two of a moving shape with the true frame and with the plain average."""
    film = pipelines.sd_animation_pipeline.film
    offsets, gains = [], []
    for scene in moving_scenes(20):
        start, true, stop = drawn(scene, 9, 128)[3:6]
        _, between, _ = interpolate(film, [start, stop], 2)
        centres = [detect([frame]).centres[0] for frame in (between, true)]
        offsets.append(float(np.linalg.norm(centres[0] - centres[1])))
        average = (start.astype(float) + stop) / 2
        gains.append(psnr(between, true) - psnr(average, true))
    measure, offset = "FILM between two frames: largest offset of the shape", max(offsets)
    print_row("sd-animation", measure, f"{offset:.1f} px", f"{MAX_FILM_OFFSET} px", holds=offset <= MAX_FILM_OFFSET)
    measure, gain = "FILM against the plain average, mean and least gain", float(np.mean(gains))
    figure = f"{gain:.1f} dB, {min(gains):.1f} dB"
    print_row("sd-animation", measure, figure, f"{MIN_FILM_GAIN} dB", holds=gain >= MIN_FILM_GAIN)


def moving_scenes(count: int) -> list[Scene]:
    """Return random scenes with a moving shape."""
    rng = random.Random("some")
    scenes = (random_scene(rng) for _ in itertools.count())
    return list(itertools.islice((scene for scene in scenes if scene.motion != "still"), count))


def drawn(scene: Scene, num_frames: int, side: int) -> Frame:
    return frames_from_tensor(draw_clip(scene, num_frames, side))


def red_circle() -> Frame:
    """Return a clip of a red circle moving right."""
    half = TRAVEL / 2
    return drawn(Scene("red", "circle", "right", "large", "dark", (0.5 - half, 0.5), (0.5 + half, 0.5)), 16, 256)


def psnr(frame: NDArray[Any], true: Frame) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / np.square(frame.astype(float) - true).mean()))


def main() -> None:
    groups = {"animate-diff": animate_diff, "sd-animation": sd_animation, "zeroscope": zeroscope}
    parser = script_parser(__doc__)
    parser.add_argument("--model", choices=groups)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--weights", default="demo")
    arguments = parser.parse_args()
    print(machine_line(), end="\n\n")
    pipelines = Pipelines(arguments.weights)
    print("| model | measure | figure | required | holds |\n|---|---|---|---|---|")
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        for model, measure in groups.items():
            if arguments.model in (None, model):
                measure(pipelines, arguments.prompts)
