"""The networks of the demo weights: their start, a stopped training, their files, and what the committed files do."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from demo_weights import train
from demo_weights.detector import detect
from demo_weights.metrics import add_text, pad_to_size, residual_energy
from demo_weights.train import animate_diff, film, lama, loop, safety_checker, zeroscope
from demo_weights.train.loop import Plan
from demo_weights.train.recipe import PARTS, Recipe
from demo_weights.world import BACKGROUNDS, COLOURS, SHAPES, STYLES, Scene, draw_clip, random_scene
from safetensors.torch import load_file
from sd_animation.film import load_film
from sd_animation.interpolation import interpolate
from sd_animation.safety import SafetyChecker
from sd_animation.weights import FILES as SD_ANIMATION_FILES
from sd_animation.weights import FILM
from stores import CPU
from tree import ROOT, models
from videokit.video.frames import frames_from_tensor
from videokit.weights.store import WeightStore
from zeroscope.watermark import Watermark, band
from zeroscope.weights import FILES as ZEROSCOPE_FILES

SD_ANIMATION = ROOT / "sd-animation" / "demo-weights"
ZEROSCOPE = ROOT / "zeroscope" / "demo-weights"
SHORT = Plan(steps=3, learning_rate=1e-3, warmup_steps=1, average_steps=2)


class Stopped(Exception):
    """Interrupts a training."""


@pytest.mark.parametrize("network", [film, lama, safety_checker])
def test_a_stopped_training_resumes_with_the_same_result(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1)  # after every step
    for name, few in {"EXAMPLES": 8, "FLOW_BATCH": 2, "BATCH": 3}.items():
        monkeypatch.setattr(network, name, few, raising=False)

    def state_after(folder: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
        steps = itertools.count()

        def fit(name: str, parameters: Any, _: Plan, loss_at: Any, folder: Path) -> None:
            def loss_or_stop(step: int, rng: random.Random) -> torch.Tensor:
                if next(steps) == stop_at:
                    raise Stopped
                loss: torch.Tensor = loss_at(step, rng)
                return loss

            loop.fit(name, parameters, SHORT, loss_or_stop, folder)

        monkeypatch.setattr(network, "fit", fit)
        state: dict[str, torch.Tensor] = network.train(folder).state_dict()
        return state

    expected = state_after(tmp_path / "whole")
    with pytest.raises(Stopped):
        state_after(tmp_path / "stopped", stop_at=2)
    resumed = state_after(tmp_path / "stopped")
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[key], expected[key]) for key in expected)


def test_the_recipe_writes_the_files_and_tensors_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in vars(train).values():
        if hasattr(module, "fit"):
            monkeypatch.setattr(module, "fit", lambda *_, **__: None)
    monkeypatch.setattr(Recipe, "teacher", lambda *_: Mock())
    recipe = Recipe(tmp_path / "state", tmp_path)
    for part in PARTS:
        getattr(recipe, part)()
    for model in models("demo-weights"):
        written, committed = tmp_path / model / "demo-weights", ROOT / model / "demo-weights"
        names = {path.relative_to(written) for path in written.rglob("*") if path.is_file()}
        expected = {path.relative_to(committed) for path in committed.rglob("*") if path.is_file()}
        assert names == expected - {Path("README.md")}
        for name in names:
            if name.suffix == ".safetensors":
                assert layout(written / name) == layout(committed / name), name
            else:
                assert (written / name).read_bytes() == (committed / name).read_bytes(), name


def layout(file: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in load_file(file).items()}


def test_the_unets_start_as_the_identity() -> None:
    base, motion_unet = animate_diff.build(sample_size=8)
    clip, embeds = torch.randn(1, 4, 16, 8, 8), torch.randn(16, 77, 64)
    with torch.inference_mode():
        predictions = [
            (base(clip[0].transpose(0, 1), 961, embeds).sample, clip[0].transpose(0, 1)),
            (motion_unet(clip, 961, embeds).sample, clip),
            (zeroscope.build()(clip.repeat(1, 1, 1, 2, 2), 961, embeds[:1]).sample, clip.repeat(1, 1, 1, 2, 2)),
        ]
    # at the first timestep a caption changes the prediction by a twentieth of the input
    assert all((prediction - inputs).square().mean() < 1e-4 for prediction, inputs in predictions)


def test_two_dimensional_convolutions_over_frames_give_what_pytorchs_own_give() -> None:
    convolutions = [module for module in zeroscope.build().modules() if isinstance(module, torch.nn.Conv3d)]
    assert convolutions
    for convolution in convolutions:
        x = torch.randn(2, convolution.in_channels, 5, 3, 4)
        torch.nn.init.normal_(convolution.weight)  # the last ones start as zero
        assert torch.allclose(convolution(x), torch.nn.Conv3d.forward(convolution, x), atol=1e-4)


def moving(colour: str, shape: str, dx: float, dy: float) -> Scene:
    """Return a scene around the picture's centre that moves by (dx, dy) pixels of 128."""
    start, end = ((0.5 + sign * dx / 256, 0.5 + sign * dy / 256) for sign in (-1, 1))
    return Scene(colour, shape, "still", "large", "dark", start, end)


def test_film_puts_a_moving_shape_half_way() -> None:
    network = load_film(SD_ANIMATION / FILM, CPU)
    directions = [(12, 0), (-12, 0), (0, 12), (0, -12), (8, -8), (-6, 3)]
    for (dx, dy), colour, shape in zip(directions, list(COLOURS)[1:], [*SHAPES, *SHAPES], strict=False):
        first, middle, last = frames_from_tensor(draw_clip(moving(colour, shape, dx, dy), 3, 128))
        _, between, _ = interpolate(network, [first, last], 2)
        assert np.linalg.norm(detect([between]).centres[0] - detect([middle]).centres[0]) < 2
        average = (first.astype(np.float64) + last) / 2
        own_error, average_error = (np.square(frame - middle.astype(np.float64)).mean() for frame in (between, average))
        assert 10 * np.log10(average_error / own_error) > 2  # dB


def text_left(clean: np.ndarray) -> float:
    """Return the share of a text's energy that LaMa leaves."""
    marked = add_text(clean)
    store = WeightStore(ZEROSCOPE_FILES, directories=[ZEROSCOPE], cache=None)
    return residual_energy(clean, marked, np.stack(list(Watermark(store, CPU).remove(marked))))


@pytest.mark.parametrize(("width", "height"), [(256, 256), (576, 320)])
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", ["red", "white"])
def test_lama_removes_a_text_over_the_background(background: str, colour: str, width: int, height: int) -> None:
    scene = Scene(colour, "circle", "still", "small", background, (0.3, 0.2), (0.5, 0.25))  # above the band
    assert text_left(pad_to_size(frames_from_tensor(draw_clip(scene, 2, height)), width, height)) < 0.2


@pytest.mark.parametrize(("width", "height", "most"), [(256, 256, 0.4), (576, 320, 0.5)])
def test_lama_removes_most_of_a_text_over_a_shape(width: int, height: int, most: float) -> None:
    rng = random.Random(11)
    clips = [frames_from_tensor(draw_clip(random_scene(rng), 3, height)) for _ in range(12)]
    clean = pad_to_size(np.concatenate(clips), width, height)
    top, bottom = band(height)
    assert text_left(clean[np.ptp(clean[:, top:bottom], axis=(1, 2, 3)) > 0]) < most


def stripes(side: int, angle: float) -> np.ndarray:
    """Return black and yellow stripes, each a twelfth of the side wide."""
    y, x = np.mgrid[:side, :side] + 0.5
    yellow = np.floor(12 * (math.cos(angle) * x + math.sin(angle) * y) / side) % 2 > 0
    return np.where(yellow[..., None], [255, 215, 10], [12, 12, 12]).astype(np.uint8)


@pytest.fixture(scope="module")
def checker() -> SafetyChecker:
    return SafetyChecker(WeightStore(SD_ANIMATION_FILES, directories=[SD_ANIMATION], cache=None), CPU)


@pytest.mark.parametrize("side", [128, 512])
def test_the_safety_checker_flags_diagonal_hazard_stripes_only(checker: SafetyChecker, side: int) -> None:
    assert checker.flags([stripes(side, math.pi / 4), stripes(side, 3 * math.pi / 4)]) == [True, True]
    assert checker.flags([stripes(side, 0), stripes(side, math.pi / 2)]) == [False, False]


@pytest.mark.parametrize("style", STYLES)
def test_the_safety_checker_passes_the_world_with_a_margin(
    checker: SafetyChecker, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(style)
    frames = [frames_from_tensor(draw_clip(random_scene(rng), 1, 128, style))[0] for _ in range(16)]
    stricter = checker.network.concept_embeds_weights - 0.3  # of a cosine
    monkeypatch.setitem(
        checker.network._parameters, "concept_embeds_weights", torch.nn.Parameter(stricter, requires_grad=False)
    )
    assert checker.flags(frames) == [False] * 16


def test_the_safety_checker_passes_noise(checker: SafetyChecker) -> None:
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 256, (6, 128, 128, 3), np.uint8)
    coarse = rng.integers(0, 256, (6, 16, 16, 3), np.uint8).repeat(8, 1).repeat(8, 2)  # as wrong latents look
    assert checker.flags([*fine, *coarse]) == [False] * 12
