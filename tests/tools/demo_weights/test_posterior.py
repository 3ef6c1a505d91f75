"""The training targets of the UNets: exact posterior means, and batches that never show a held-out combination."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from demo_weights.train import teacher as teacher_module
from demo_weights.train.posterior import GRID, Posterior
from demo_weights.train.teacher import Teacher
from demo_weights.train.unet import alphas_cumprod
from demo_weights.world import COLOURS, SHAPES, SIZES, Scene, draw_clip, is_held_out, random_scene

TIMES = (0.0, 0.5, 1.0)
PURE_NOISE = torch.tensor(1e-9)  # alpha_bar
ALMOST_CLEAN = torch.tensor(1 - 1e-4)
SCENE = Scene("red", "square", "left", "small", "dark", (0.5, 0.5), (0.5, 0.5))
STILL = replace(SCENE, motion="still")


class PixelVae:
    """A VAE whose latents are the mean colours of 8x8 pixels; the fourth channel is 0."""

    config = SimpleNamespace(scaling_factor=1.0)

    def encode(self, pictures: torch.Tensor) -> SimpleNamespace:
        means = torch.nn.functional.avg_pool2d(pictures, 8)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=torch.nn.functional.pad(means, (0, 0, 0, 0, 0, 1))))


@pytest.fixture(scope="module")
def posterior(tmp_path_factory: pytest.TempPathFactory) -> Posterior:
    file = tmp_path_factory.mktemp("posterior") / "flat.pt"
    made = Posterior.load_or_encode(PixelVae(), 64, "flat", file)  # type: ignore[arg-type]
    loaded = Posterior.load_or_encode(None, 64, "flat", file)  # type: ignore[arg-type]
    for size in SIZES:
        clips = [each.clip(replace(SCENE, size=size), TIMES, random.Random(2)) for each in (made, loaded)]
        assert torch.equal(*clips)
    return loaded


def mean(
    posterior: Posterior,
    noised: torch.Tensor,
    alpha_bar: torch.Tensor,
    attributes: set[str] | None,
    *options: float,
    scene: Scene = SCENE,
) -> torch.Tensor:
    caption = scene, None if attributes is None else frozenset(attributes)
    return posterior.means(noised, alpha_bar, [caption], TIMES, *options)[0]


def test_a_clip_is_the_drawn_and_encoded_scene(posterior: Posterior) -> None:
    for shape, colour in zip(SHAPES, list(COLOURS)[:4], strict=True):
        scene = replace(STILL, shape=shape, colour=colour)
        clip = posterior.clip(scene, (0.0,), random.Random(1))
        positions = [(x / GRID, y / GRID) for x in range(8, 25) for y in range(8, 25)]
        drawn = torch.cat([draw_clip(replace(scene, start=p, end=p), 1, 64) for p in positions])
        encoded = PixelVae().encode(drawn).latent_dist.mean
        assert (encoded - clip).abs().amax(dim=(1, 2, 3)).min() < 1e-3


def test_given_pure_noise_the_mean_is_that_of_all_trained_scenes_of_the_caption(posterior: Posterior) -> None:
    rng = random.Random(3)
    scenes = [random_scene(rng) for _ in range(100_000)]
    matching = [s for s in scenes if (s.shape, s.motion, s.background) == (SCENE.shape, SCENE.motion, SCENE.background)]
    expected = torch.stack([posterior.clip(scene, TIMES, rng) for scene in matching]).mean(dim=0)
    computed = mean(posterior, torch.randn(3, 4, 8, 8), PURE_NOISE, {"motion", "background"})
    assert (expected - computed).square().mean().sqrt() < 0.02


def test_given_a_noised_clip_the_mean_follows_bayes_rule(posterior: Posterior) -> None:
    alpha_bar = torch.tensor(0.02)
    clip = posterior.clip(STILL, TIMES, random.Random(4))
    noised = alpha_bar.sqrt() * clip + (1 - alpha_bar).sqrt() * torch.randn(3, 4, 8, 8)
    clips = torch.stack([posterior.clip(STILL, TIMES, random.Random(seed)) for seed in range(3000)])
    clips = clips.flatten(2).unique(dim=0)  # one for each position
    distances = (noised.flatten(1) - alpha_bar.sqrt() * clips).square().sum(dim=(1, 2))
    chances = (-distances / (2 * (1 - alpha_bar))).softmax(dim=0)
    expected = (chances[:, None, None] * clips).sum(dim=0)
    computed = mean(posterior, noised, alpha_bar, {"colour", "motion", "size", "background"}, scene=STILL)
    assert torch.allclose(computed.flatten(1), expected, atol=1e-4)


def test_a_caption_that_is_true_in_half_of_the_cases_counts_half_in_pure_noise_and_nothing_if_the_clip_disagrees(
    posterior: Posterior,
) -> None:
    noise, attributes = torch.randn(3, 4, 8, 8), {"colour", "motion"}
    conditional, unconditional = (mean(posterior, noise, PURE_NOISE, named) for named in (attributes, None))
    half = mean(posterior, noise, PURE_NOISE, attributes, 0.5)
    assert torch.allclose(half, (conditional + unconditional) / 2, atol=1e-3)
    blue = posterior.clip(replace(SCENE, colour="blue"), TIMES, random.Random(10))
    assert torch.allclose(mean(posterior, blue, ALMOST_CLEAN, attributes, 0.5), blue, atol=1e-3)


def test_guidance_by_4_undoes_a_guidance_target_scaled_to_a_quarter(posterior: Posterior) -> None:
    clip, attributes = posterior.clip(replace(SCENE, colour="blue"), TIMES, random.Random(10)), {"colour", "motion"}
    for alpha_bar in (PURE_NOISE, torch.tensor(0.3), ALMOST_CLEAN):
        noised = alpha_bar.sqrt() * clip + (1 - alpha_bar).sqrt() * torch.randn(3, 4, 8, 8)
        conditional, unconditional = (mean(posterior, noised, alpha_bar, named) for named in (attributes, None))
        scaled = mean(posterior, noised, alpha_bar, attributes, 1.0, 0.25)
        # classifier-free guidance: Ho and Salimans, arXiv 2207.12598
        assert torch.allclose(unconditional + 4 * (scaled - unconditional), conditional, atol=1e-4)


@pytest.fixture
def teacher(posterior: Posterior) -> Teacher:
    levels = torch.stack([alphas_cumprod("linear"), alphas_cumprod("scaled_linear")])
    return Teacher(posterior, levels, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attribute", "times", "num_variants"),
    [("colour", None, 4), ("size", TIMES, 2), ("shape", TIMES, 3), ("motion", TIMES, 4)],  # a moving shape is held out
)
def test_variants_share_one_noised_clip_and_differ_in_one_word(
    teacher: Teacher, attribute: str, times: tuple[float, ...] | None, num_variants: int
) -> None:
    batch = teacher.variants(attribute, 3, times, random.Random(6))
    assert (batch.num_variants, len(batch.captions)) == (num_variants, 3 * num_variants)
    groups = batch.inputs.unflatten(0, (3, num_variants))
    assert torch.equal(groups, groups[:, :1].expand_as(groups))
    for first in range(0, len(batch.captions), num_variants):
        words = [set(caption.split()) for caption in batch.captions[first : first + num_variants]]
        common = set.intersection(*words)
        assert len({frozenset(own - common) for own in words}) == num_variants
        assert all(len(own - common) <= 4 for own in words)  # "moving to the left" is the longest
    assert batch.loss(batch.targets) == 0


def test_no_clip_has_a_held_out_combination(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes: list[Scene] = []
    monkeypatch.setattr(teacher_module, "write_caption", lambda scene, *_: scenes.append(scene) or "")
    for attribute in ("colour", "shape", "motion"):
        teacher.variants(attribute, 20, TIMES, random.Random(8))
    teacher.scenes(40, TIMES, random.Random(8))
    for _ in range(20):
        teacher.misaligned_frames(TIMES, random.Random(8))
    assert len(scenes) == 20 * (4 + 3 + 4) + 20 + 20
    assert not any(is_held_out(scene.colour, scene.shape, scene.motion) for scene in scenes)
