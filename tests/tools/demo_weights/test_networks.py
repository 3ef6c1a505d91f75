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
from demo_weights.detector import look_at
from demo_weights.metrics import energy_left, framed, with_text
from demo_weights.pipelines import Pipelines
from demo_weights.train import autoencoder, film, lama, safety_checker, training
from demo_weights.train.training import Plan
from demo_weights.world import BACKGROUNDS, COLOURS, LOOKS, SHAPES, Scene, draw_clip, random_scene
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from sd_animation import weights as sd_animation_weights
from sd_animation.film import load_film
from sd_animation.in_betweens import in_betweens
from sd_animation.safety import SafetyChecker
from stores import CPU
from torch.nn.functional import avg_pool2d
from tree import ROOT
from videokit.video.frames import frames_from_tensor
from videokit.weights.store import WeightStore
from zeroscope.lama import Lama, known
from zeroscope.watermark import Watermark, band

from zeroscope import weights as zeroscope_weights

SD_ANIMATION = ROOT / "sd-animation" / "demo-weights"
ZEROSCOPE = ROOT / "zeroscope" / "demo-weights"
SHORT = Plan(steps=3, learning_rate=1e-3, warm_up=1, mean_over=2)


class Stopped(Exception):
    """What a run is killed by."""


@pytest.mark.parametrize(
    ("part", "draws", "train"),
    [
        (film, "moves", lambda folder: film.train(folder, SHORT, SHORT, SHORT)),
        (lama, "masked_pictures", lambda folder: lama.train(folder, SHORT, SHORT, SHORT)),
        (safety_checker, "some_stripes", lambda folder: safety_checker.train(folder, SHORT)),
    ],
    ids=["film", "lama", "safety"],
)
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(
    part: Any, draws: str, train: Callable[[Path], torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", -1)  # after every step
    for name, few in {"EXAMPLES": 8, "FLOW_BATCH": 2, "BATCH": 3}.items():
        if hasattr(part, name):
            monkeypatch.setattr(part, name, few)
    trained = train(tmp_path / "whole")
    part.write(trained, tmp_path / "written")
    whole = trained.state_dict()
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


def test_half_way_in_a_fade_is_the_mean_of_both_ends() -> None:
    network = load_film(SD_ANIMATION / sd_animation_weights.FILM, CPU)
    for (one, other), shape in zip(itertools.combinations(list(COLOURS)[:4], 2), [*SHAPES, *SHAPES], strict=False):
        ends = [
            draw_clip(going(colour, form, "large", 0, 0), 1, 128) for colour, form in ((one, "circle"), (other, shape))
        ]
        first, last = (frames_from_tensor(torch.lerp(*ends, far))[0] for far in (0.2, 0.3))
        _, made, _ = in_betweens(network, [first, last], 2)
        beside = made - (first.astype(np.float64) + last) / 2
        assert np.abs(beside).mean() < 1


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


@pytest.mark.parametrize("seed", range(3))
def test_lama_begins_as_a_blur_of_what_it_sees(seed: int) -> None:
    torch.manual_seed(seed)
    network = Lama(lama.SIZE).eval()
    lama.begin_as_blur(network)
    pictures, mask = lama.masked_pictures(random.Random(seed)).split(3, dim=1)
    with torch.inference_mode():
        blurred = network.model(known(pictures, mask))
    # (B, 3, H, W) above the band, each colour by itself
    seen, made = (avg_pool2d(images[:, :, :128], 16).transpose(0, 1).flatten(1) for images in (pictures, blurred))
    for ours, theirs in zip(seen, made, strict=True):
        assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.7  # -0.8 to 0.9, as PyTorch begins


@pytest.mark.parametrize(("height", "width"), [(256, 256), lama.DEFAULT, (424, 264)])
def test_what_lama_makes_of_the_band_alone_is_what_it_makes_of_the_band(height: int, width: int) -> None:
    network = Lama(lama.SIZE).eval()
    given = lama.masked_pictures(random.Random(1), height, width)[:2]
    with torch.inference_mode():
        whole, (near, rows) = network.model(given), lama.made_near_band(network, given)
    top, bottom = band(height)
    assert rows.start < top < bottom < rows.stop
    near_top = top - rows.start
    torch.testing.assert_close(near[:, :, near_top : near_top + bottom - top], whole[:, :, top:bottom])


def test_what_lama_learns_from_first_holds_the_band_and_the_shape() -> None:
    drawn = torch.cat([lama.masked_pictures(random.Random(seed)) for seed in range(5)])
    cut = lama.cut(drawn, random.Random(6))
    (top, bottom), height = band(lama.SIDE), cut.shape[2]
    assert (height % 8, cut.shape[3]) == (0, lama.WIDTH)  # as LaMa halves thrice, and at the same place as in the whole
    assert (lama.SIDE - height) % 8 == 0
    for whole, part in zip(drawn, cut, strict=True):
        rows = part[3].mean(dim=1)
        assert rows.nonzero().flatten().tolist() == list(range(top - 256 + height, bottom - 256 + height))
        shape, kept = (((one[:3] != one[:3, :1, :1]).any(0)[-height:]).sum() for one in (whole, part))
        assert kept == shape or kept > 0.8 * shape  # a large triangle is wider than the cut


@pytest.mark.parametrize(("height", "width"), [lama.DEFAULT, (424, 264)])
def test_what_lama_learns_from_has_the_world_anywhere_in_pictures_of_any_size(height: int, width: int) -> None:
    drawn = torch.cat([lama.masked_pictures(random.Random(seed), height, width) for seed in range(8)])
    assert drawn.shape == (8 * round(8 * 256**2 / (height * width)), 4, height, width)
    top, bottom = band(height)
    assert drawn[:, 3].mean(dim=(0, 2)).nonzero().flatten().tolist() == list(range(top, bottom))
    shapes = (drawn[:, :3] != drawn[:, :3, :1, :1]).any(dim=1)
    ways = shapes.any(dim=1 if width > height else 2)  # (B, the longer side)
    middles = [float(way.nonzero().float().mean()) / len(way) for way in ways]
    assert min(middles) < 0.4 < 0.6 < max(middles)
    assert not ways[:, [0, -1]].any()  # all of it is in the picture
    assert shapes[:, top:bottom].any(dim=(1, 2)).float().mean() > 0.7


@pytest.mark.parametrize(("width", "height"), [(256, 256), (576, 320)])
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", ["red", "white"])
def test_a_text_over_the_background_is_taken_away(background: str, colour: str, width: int, height: int) -> None:
    scene = Scene(colour, "circle", "still", "small", background, (0.3, 0.2), (0.5, 0.25))  # above the band
    clean = framed(frames_from_tensor(draw_clip(scene, 2, height)), width, height)
    marked = with_text(clean)
    store = WeightStore(zeroscope_weights.FILES, directories=[ZEROSCOPE], cache=None)
    assert energy_left(clean, marked, np.stack(list(Watermark(store, CPU).remove(marked)))) < 0.2


@pytest.mark.parametrize(("width", "height", "most"), [(256, 256, 0.4), (576, 320, 0.5)])
def test_a_text_over_a_shape_is_taken_away(width: int, height: int, most: float) -> None:
    draw_from = random.Random(11)
    clean = np.concatenate([frames_from_tensor(draw_clip(random_scene(draw_from), 3, height)) for _ in range(12)])
    clean = framed(clean, width, height)
    top, bottom = band(height)
    clean = clean[np.ptp(clean[:, top:bottom], axis=(1, 2, 3)) > 0]
    marked = with_text(clean)
    store = WeightStore(zeroscope_weights.FILES, directories=[ZEROSCOPE], cache=None)
    left = energy_left(clean, marked, np.stack(list(Watermark(store, CPU).remove(marked))))
    assert left < most


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
