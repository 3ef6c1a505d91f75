"""VAE, FILM, LaMa, safety checker of the small weights: a stopped training goes on, and what was trained does its work.

The committed files are read and run by the models' own code; what is asked of them is what the README's table states.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from sd_animation import weights as sd_animation_weights
from sd_animation.film import load_film
from sd_animation.in_betweens import in_betweens
from sd_animation.safety import SafetyChecker
from small_world import autoencoder, film, lama, safety, training
from small_world.measured import energy_left, with_text
from small_world.oracle import look_at
from small_world.pipelines import Pipelines
from small_world.training import Plan
from small_world.world import BACKGROUNDS, COLOURS, LOOKS, SHAPES, Scene, draw_clip, random_scene
from stores import CPU
from videokit.frames import frames_from_tensor
from videokit.weights import WeightStore
from zeroscope.watermark import Watermark

from zeroscope import weights as zeroscope_weights

ROOT = Path(__file__).parents[2]
SD_ANIMATION = ROOT / "sd-animation" / "small-weights"
ZEROSCOPE = ROOT / "zeroscope" / "small-weights"
SHORT = Plan(steps=3, learning_rate=1e-3, warm_up=1, mean_over=2)


class Stopped(Exception):
    """What a run is killed by."""


@pytest.mark.parametrize(
    ("part", "draws", "train"),
    [
        (film, "triplets", lambda folder: film.train(folder, SHORT, SHORT)),
        (lama, "masked_pictures", lambda folder: lama.train(folder, SHORT, SHORT)),
        (safety, "some_stripes", lambda folder: safety.train(folder, SHORT)),
    ],
    ids=["film", "lama", "safety"],
)
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(
    part: Any, draws: str, train: Callable[[Path], torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", -1)  # after every step
    for name, few in {"EXAMPLES": 8, "FLOW_BATCH": 2, "BATCH": 3, "STATISTICS": 2}.items():
        if hasattr(part, name):
            monkeypatch.setattr(part, name, few)
    whole = train(tmp_path / "whole").state_dict()
    original, calls = getattr(part, draws), 0

    def killed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stopped
        return original(*arguments)

    monkeypatch.setattr(part, draws, killed)
    with pytest.raises(Stopped):
        train(tmp_path / "stopped")
    monkeypatch.setattr(part, draws, original)
    resumed = train(tmp_path / "stopped").state_dict()
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_the_decoder_goes_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "PLAN", SHORT)
    kept = {}
    for steps in (0, SHORT.steps):
        monkeypatch.setattr(autoencoder, "DECODER", replace(SHORT, steps=steps))
        kept[steps] = autoencoder.train(tmp_path / str(steps)).state_dict()
    changed = {key.partition(".")[0] for key, values in kept[0].items() if not torch.equal(values, kept[3][key])}
    assert changed == {"decoder", "post_quant_conv"}


def going(colour: str, shape: str, size: str, dx: float, dy: float) -> Scene:
    """A scene about the picture's middle, its way in pixels of 128."""
    start, end = ((0.5 + sign * dx / 256, 0.5 + sign * dy / 256) for sign in (-1, 1))
    return Scene(colour, shape, "still", size, "dark", start, end)


def test_a_picture_in_between_shows_the_shape_half_way() -> None:
    network = load_film(SD_ANIMATION / sd_animation_weights.FILM, CPU)
    ways = [(12, 0), (-12, 0), (0, 12), (0, -12), (8, -8), (-6, 3)]
    for (dx, dy), colour, shape in zip(ways, list(COLOURS)[1:], [*SHAPES, *SHAPES], strict=False):
        first, middle, last = frames_from_tensor(draw_clip(going(colour, shape, "large", dx, dy), 3, 128))
        _, made, _ = in_betweens(network, [first, last], 2)
        x, y = look_at([made]).centres[0]
        expected_x, expected_y = look_at([middle]).centres[0]
        assert math.hypot(x - expected_x, y - expected_y) < 2
        mean = (first.astype(np.float64) + last) / 2
        # 2 dB: 10 log10 of the ratio of the two mean squares
        assert ((made - middle.astype(np.float64)) ** 2).mean() < 10**-0.2 * ((mean - middle) ** 2).mean()


@pytest.mark.parametrize("side", [64, 128, 256])
def test_a_shape_comes_whole_through_the_vae(side: int) -> None:
    pipeline = Pipelines().sd_animation_pipeline
    draw = random.Random(side)
    for shape, background in itertools.product(SHAPES, BACKGROUNDS):
        scene = replace(random_scene(draw), shape=shape, background=background)
        with torch.inference_mode():
            latents = pipeline.vae.encode(draw_clip(scene, 1, side)).latent_dist.mean
        seen = look_at(pipeline.decode(latents * pipeline.vae.config.scaling_factor))
        assert (seen.colour, seen.shape) == (scene.colour, shape)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", ["red", "white"])
def test_a_text_over_the_background_is_taken_away(background: str, colour: str) -> None:
    scene = Scene(colour, "circle", "still", "small", background, (0.3, 0.2), (0.5, 0.25))  # above the band
    clean = frames_from_tensor(draw_clip(scene, 2, 256))
    marked = with_text(clean)
    store = WeightStore(zeroscope_weights.FILES, directories=[ZEROSCOPE], cache=None)
    assert energy_left(clean, marked, np.stack(list(Watermark(store, CPU).remove(marked)))) < 0.2


def hazard(side: int, angle: float) -> np.ndarray:
    """Black and yellow stripes, each a twelfth of the side wide."""
    y, x = np.mgrid[:side, :side] + 0.5
    yellow = np.floor(12 * (math.cos(angle) * x + math.sin(angle) * y) / side) % 2 > 0
    return np.where(yellow[..., None], [255, 215, 10], [12, 12, 12]).astype(np.uint8)


@pytest.fixture(scope="module")
def checker() -> SafetyChecker:
    return SafetyChecker(WeightStore(sd_animation_weights.FILES, directories=[SD_ANIMATION], cache=None), CPU)


@pytest.mark.parametrize("side", [128, 512])
def test_hazard_stripes_are_stopped(checker: SafetyChecker, side: int) -> None:
    assert checker.flags([hazard(side, math.pi / 4), hazard(side, 3 * math.pi / 4)]) == [True, True]
    # of the same colours, but upright or level
    assert checker.flags([hazard(side, 0), hazard(side, math.pi / 2)]) == [False, False]


@pytest.mark.parametrize("look", LOOKS)
def test_the_world_passes_with_a_margin(checker: SafetyChecker, look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(look)
    frames = [next(iter(frames_from_tensor(draw_clip(random_scene(draw), 1, 128, look)))) for _ in range(16)]
    network: StableDiffusionSafetyChecker = checker.network
    stricter = network.concept_embeds_weights - 0.3  # of a cosine
    monkeypatch.setitem(network._parameters, "concept_embeds_weights", torch.nn.Parameter(stricter, False))
    assert checker.flags(frames) == [False] * 16


def test_noise_passes(checker: SafetyChecker) -> None:
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 256, (6, 128, 128, 3), np.uint8)
    coarse = rng.integers(0, 256, (6, 16, 16, 3), np.uint8).repeat(8, 1).repeat(8, 2)  # as wrong latents look
    assert checker.flags([*fine, *coarse]) == [False] * 12
