"""What the UNets are taught: the mean that caption and noise leave open, and questions that differ by one word."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from demo_weights.captions import SHAPE_WORDS, random_names
from demo_weights.train import lessons, video
from demo_weights.train.denoiser import alpha_bars
from demo_weights.train.lessons import (
    ASTRAY,
    DISAGREEING,
    GROUND_WEIGHT,
    STRONGEST,
    WORD_WEIGHT,
    Questions,
    Teacher,
    weight,
)
from demo_weights.train.posterior import GRID, MOMENTS, Posterior
from demo_weights.train.video_training import BATCH, FEW_FRAMES, WHOLE, Lessons
from demo_weights.world import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    TRAVEL,
    Scene,
    draw_clip,
    is_held_out,
    random_scene,
    reach,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TIMES = (0.0, 0.5, 1.0)
WHITE = torch.tensor(1e-9)  # alpha_bar where noise is all there is
CLEAR = torch.tensor(1 - 1e-4)
SCENE = Scene("red", "square", "left", "small", "dark", (0.5, 0.5), (0.5, 0.5))


class Pixels:
    """Stands for a VAE: a latent is the mean of a cell's pixels, the fourth is 0."""

    config = SimpleNamespace(scaling_factor=1.0)

    def encode(self, pictures: torch.Tensor) -> SimpleNamespace:
        means = torch.nn.functional.avg_pool2d(pictures, 8)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=torch.nn.functional.pad(means, (0, 0, 0, 0, 0, 1))))


@pytest.fixture(scope="session")
def posterior(tmp_path_factory: pytest.TempPathFactory) -> Posterior:
    return Posterior.made(Pixels(), 64, "flat", tmp_path_factory.mktemp("posterior") / "flat.pt")  # type: ignore[arg-type]


def told(
    posterior: Posterior,
    noised: torch.Tensor,
    alpha_bar: torch.Tensor,
    scene: Scene,
    names: frozenset[str] | None,
    times: Sequence[float],
    trust: float = 1.0,
    heeded: float = 1.0,
) -> torch.Tensor:
    return posterior.answers(noised, alpha_bar, [(scene, names)], times, trust, heeded)[0]


def test_pictures_are_the_same_as_drawn_and_encoded(posterior: Posterior) -> None:
    for shape, colour in zip(SHAPES, list(COLOURS)[:4], strict=True):
        scene = replace(SCENE, motion="still", shape=shape, colour=colour)
        shown = posterior.clip(scene, (0.0,), random.Random(1))
        places = [(x / GRID, y / GRID) for x in range(8, 25) for y in range(8, 25)]
        drawn = torch.cat([draw_clip(replace(scene, start=place, end=place), 1, 64) for place in places])
        encoded = Pixels().encode(drawn).latent_dist.mean
        assert (encoded - shown).abs().amax(dim=(1, 2, 3)).min() < 1e-3


def test_it_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "flat.pt"
    made = Posterior.made(Pixels(), 128, "flat", file)  # type: ignore[arg-type]
    kept = Posterior.made(None, 128, "flat", file)  # type: ignore[arg-type]
    assert all(
        torch.equal(*(known.clip(replace(SCENE, size=size), TIMES, random.Random(2)) for known in (made, kept)))
        for size in SIZES
    )


def test_without_noise_it_is_what_is_shown(posterior: Posterior) -> None:
    draw = random.Random(2)
    for times in (TIMES, MOMENTS[:1]):
        for _ in range(20):
            scene, names = random_scene(draw), random_names(draw)
            clip = posterior.clip(scene, times, draw)
            assert torch.allclose(told(posterior, clip, CLEAR, scene, names, times), clip, atol=1e-3)


def test_of_noise_alone_it_is_the_mean_of_all_that_the_caption_means(posterior: Posterior) -> None:
    draw = random.Random(3)
    names = frozenset({"motion", "background"})
    mean = told(posterior, torch.randn(3, 4, 8, 8), WHITE, SCENE, names, TIMES)
    # the square with every colour but the one that is held out with it and this motion, drawn 2,000 times
    drawn = [random_scene(draw) for _ in range(100_000)]
    alike = [s for s in drawn if (s.shape, s.motion, s.background) == (SCENE.shape, SCENE.motion, SCENE.background)]
    many = torch.stack([posterior.clip(scene, TIMES, draw) for scene in alike]).mean(dim=0)
    assert (many - mean).square().mean().sqrt() < 0.02
    assert (mean - told(posterior, torch.randn(3, 4, 8, 8), WHITE, SCENE, frozenset(), TIMES)).abs().max() > 0.05


def test_between_it_is_bayes_rule(posterior: Posterior) -> None:
    alpha_bar = torch.tensor(0.02)
    still = replace(SCENE, motion="still")
    names = frozenset({"colour", "motion", "size", "background"})
    noised = alpha_bar.sqrt() * posterior.clip(still, TIMES, random.Random(4)) + (1 - alpha_bar).sqrt() * torch.randn(
        3, 4, 8, 8
    )
    shown = torch.stack([posterior.clip(still, TIMES, random.Random(seed)) for seed in range(3000)])
    clips = shown.flatten(2).unique(dim=0)  # one for each place
    off = (noised.flatten(1) - alpha_bar.sqrt() * clips).square().sum(dim=(1, 2))
    chances = (-off / (2 * (1 - alpha_bar))).softmax(dim=0)
    expected = (chances[:, None, None] * clips).sum(dim=0)
    assert torch.allclose(told(posterior, noised, alpha_bar, still, names, TIMES).flatten(1), expected, atol=1e-4)


def test_motions_go_their_way(posterior: Posterior) -> None:
    cells = (torch.arange(8) + 0.5) / 8
    for motion, (dx, dy) in MOTIONS.items():
        scene = replace(SCENE, colour="white", motion=motion)
        clip = posterior.clip(scene, TIMES, random.Random(5))[:, 0]
        shown = clip - clip.min()
        x, y = ((frames @ cells / frames.sum(dim=1))[[0, -1]].diff().item() for frames in (shown.sum(1), shown.sum(2)))
        assert (x, y) == (pytest.approx(TRAVEL * dx, abs=0.02), pytest.approx(TRAVEL * dy, abs=0.02))


def test_a_caption_without_words_may_mean_anything(posterior: Posterior) -> None:
    noised = torch.randn(3, 4, 8, 8)
    other = replace(SCENE, colour="blue", shape="cross", motion="up")
    means = [told(posterior, noised, torch.tensor(0.1), scene, None, TIMES) for scene in (SCENE, other)]
    assert torch.equal(*means)


@pytest.fixture
def teacher(posterior: Posterior, monkeypatch: pytest.MonkeyPatch) -> Teacher:
    levels = torch.stack([alpha_bars("linear"), alpha_bars("scaled_linear")])
    asked = Teacher(posterior, levels, None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(asked, "_embed", lambda captions: torch.zeros(len(captions), 77, 64))
    return asked


@pytest.mark.parametrize(
    ("attribute", "times", "count"),
    [
        ("colour", None, 4),
        ("shape", None, 4),
        ("size", None, 2),
        ("background", None, 2),
        ("colour", TIMES, 4),
        ("shape", TIMES, 3),  # in motion one of the four may be held out
        ("size", TIMES, 2),
        ("background", TIMES, 2),
        ("motion", TIMES, 4),
    ],
)
def test_a_group_has_one_noise_and_differs_in_one_word(
    teacher: Teacher, attribute: str, times: tuple[float, ...] | None, count: int
) -> None:
    asked = teacher.word(attribute, 3, times, random.Random(6))
    assert asked.alike == count
    assert len(asked.captions) == len(asked.inputs) == 3 * asked.alike
    groups = asked.inputs.unflatten(0, (3, asked.alike))
    assert torch.equal(groups, groups[:, :1].expand_as(groups))
    for first in range(0, len(asked.captions), asked.alike):
        words = [set(caption.split()) for caption in asked.captions[first : first + asked.alike]]
        common = set.intersection(*words)
        assert len({frozenset(own - common) for own in words}) == asked.alike
        assert all(len(own - common) <= 4 for own in words)  # "moving to the left" is the longest


def test_no_clip_is_asked_for_that_is_held_out(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Scene] = []
    monkeypatch.setattr(lessons, "say", lambda scene, *_: asked.append(scene) or "")
    for attribute in ("colour", "shape", "motion"):
        teacher.word(attribute, 20, TIMES, random.Random(8))
    assert len(asked) == 20 * (4 + 3 + 4)
    assert not any(is_held_out(scene.colour, scene.shape, scene.motion) for scene in asked)


def test_the_right_answer_has_no_loss_and_the_word_weighs_more(teacher: Teacher) -> None:
    asked = teacher.word("shape", 2, None, random.Random(7))
    assert asked.loss(asked.wanted) == 0
    strengths = asked.strengths[::4]
    assert asked.loss(asked.wanted + 0.1) == pytest.approx(0.01 * weight(strengths, finer=1).mean().item(), rel=1e-4)
    swapped = asked.wanted.unflatten(0, (2, 4)).roll(1, dims=1).flatten(0, 1)
    differing = (swapped - asked.wanted).unflatten(0, (2, 4)).square().flatten(1).mean(dim=1)
    of_picture = strengths.clamp(1, STRONGEST) / strengths
    assert asked.loss(swapped) == pytest.approx(WORD_WEIGHT * (of_picture * differing).mean().item(), rel=1e-4)


def test_what_a_whole_frame_of_a_clip_is_wrong_by_counts_as_the_picture_does(teacher: Teacher) -> None:
    asked = teacher.scenes(2, MOMENTS, random.Random(16))
    strength = asked.strengths[0].item()
    of_picture = min(max(strength, 1), STRONGEST) / strength
    everywhere, striped = 0.1 * torch.ones(8), 0.1 * torch.tensor([1.0, -1] * 4)  # the same square
    losses = [asked.loss(asked.wanted + error).item() for error in (everywhere, striped)]
    assert losses[1] == pytest.approx(0.01 * weight(asked.strengths[:1], finer=1).item(), rel=1e-4)
    assert losses[0] - losses[1] == pytest.approx(0.01 * GROUND_WEIGHT * of_picture, rel=1e-4)


def test_where_a_frame_shows_another_scene_the_answer_is_the_scene_of_most(posterior: Posterior) -> None:
    still = replace(SCENE, motion="still")
    clip = posterior.clip(still, MOMENTS, random.Random(11))
    other = posterior.clip(replace(still, background="light"), MOMENTS, random.Random(11))
    mixed = torch.cat([clip[:1], other[1:2], clip[2:]])
    alpha_bar = torch.tensor(0.5)
    answer = told(posterior, alpha_bar.sqrt() * mixed, alpha_bar, still, None, MOMENTS)
    assert torch.allclose(answer[..., 0, 0], clip[..., 0, 0], atol=0.01)  # the background


def test_frames_lie_beside_their_way_where_that_is_asked_for_but_never_outside(posterior: Posterior) -> None:
    still = replace(SCENE, motion="still")
    centres = []
    for beside in ([(0, 0), (0, -4), (-3, 0)], [(0, 0), (GRID, GRID), (-GRID, -GRID)]):
        clip = posterior.clip(still, TIMES, random.Random(13), beside)[:, 0]
        shown = clip - clip.amin(dim=(1, 2), keepdim=True)
        cells = (torch.arange(8) + 0.5) * GRID / 8  # in places
        centres.append([[(f.sum(axis) @ cells / f.sum()).item() for axis in (1, 0)] for f in shown])
    (first, left, up), (_, furthest, nearest) = torch.tensor(centres)  # (down, across) each
    assert (left - first).tolist() == pytest.approx([0, -4], abs=0.3)
    assert (up - first).tolist() == pytest.approx([-3, 0], abs=0.3)
    assert nearest.tolist() == pytest.approx([GRID * reach(still.size)] * 2, abs=0.3)  # whole
    assert furthest.tolist() == pytest.approx([GRID * (1 - reach(still.size))] * 2, abs=0.3)


def test_where_frames_lie_beside_their_way_they_are_answered_to_lie_on_one(posterior: Posterior) -> None:
    still = replace(SCENE, motion="still")
    clip = posterior.clip(still, MOMENTS, random.Random(14), [(0, 0), (0, 0), (1, 0), (0, -1)])
    alpha_bar = torch.tensor(0.5)
    answer = told(posterior, alpha_bar.sqrt() * clip, alpha_bar, still, None, MOMENTS)
    assert (clip - clip[:1]).abs().max() > 0.3
    assert torch.allclose(answer, answer[:1].expand_as(answer), atol=0.03)


def test_clips_under_much_noise_have_frames_that_do_not_agree_and_are_answered_as_one_scene(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(12)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    found, leaning = dict.fromkeys((DISAGREEING - 1, DISAGREEING), 0), 0
    dark, light = (picture[0, 0, 0] for picture in teacher.posterior.empty)  # a corner of the background
    for level in found:
        alpha_bar = teacher.alpha_bars[0, level]
        monkeypatch.setattr(teacher, "_level", lambda lowest, draw, known=(level, alpha_bar): known)
        draw = random.Random(12)
        for _ in range(40):
            asked = teacher.scenes(2, MOMENTS, draw)
            shown, answer = ((asked.inputs - n * (1 - alpha_bar).sqrt())[0, :, 0, 0, 0] for n in (0, asked.wanted))
            corners = shown / alpha_bar.sqrt()
            found[level] += bool((corners - corners[0]).abs().max() > 0.01)
            leaning += bool(((corners - dark).abs() > 0.01)[(corners - light).abs() > 0.01].any())
            assert torch.allclose(answer, answer[:1].expand_as(answer), atol=0.02)
    assert found[DISAGREEING - 1] == 0
    assert 12 <= leaning <= 28  # half of them
    assert leaning + 4 <= found[DISAGREEING] <= 36  # half of the others have strangers, some of the same background


def test_frames_beside_their_way_are_asked_to_lie_on_it(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    monkeypatch.setattr(lessons, "STILL_ASTRAY", 1)
    monkeypatch.setattr(lessons, "is_held_out", lambda *combination: False)
    monkeypatch.setattr(lessons, "random_names", lambda draw: frozenset({"motion"}))
    draw, apart = random.Random(15), 0
    for _ in range(20):
        asked = teacher.astray(MOMENTS, draw)
        assert ASTRAY[0] <= asked.timesteps[0] <= ASTRAY[1]
        assert asked.captions[1] == ""
        alpha_bars = teacher.alpha_bars[:, asked.timesteps[0]]
        alpha_bar = alpha_bars[(alpha_bars / (1 - alpha_bars) - asked.strengths[0]).abs().argmin()]
        shown, answer = ((asked.inputs - n * (1 - alpha_bar).sqrt())[0] for n in (0, asked.wanted))
        apart += bool((shown - shown[:1]).abs().max() > 0.1 * alpha_bar.sqrt())
        assert torch.allclose(answer, answer[:1].expand_as(answer), atol=1e-3)
    assert apart > 15


def test_questions_of_several_kinds_are_asked_at_once(teacher: Teacher) -> None:
    kinds: list[Questions] = [
        teacher.scenes(4, None, random.Random(8)),
        teacher.word("colour", 1, None, random.Random(9)),
    ]
    wanted = torch.cat([asked.wanted for asked in kinds])
    assert teacher.loss(lambda inputs, timesteps, embeds: wanted, *kinds) == 0
    alone = [asked.loss(torch.zeros_like(asked.wanted)) for asked in kinds]
    assert torch.isclose(teacher.loss(lambda inputs, timesteps, embeds: torch.zeros_like(inputs), *kinds), sum(alone))


def test_zeroscope_learns_shapes_from_stills_of_one_scene_with_every_shape(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[str] = []

    def embed(asked: Sequence[str]) -> torch.Tensor:
        captions.extend(asked)
        return torch.zeros(len(asked), 77, 64)

    monkeypatch.setattr(teacher, "_embed", embed)
    lesson = Lessons(video.build(), teacher)
    torch.manual_seed(1)
    lesson.shape_loss(0, random.Random(3)).backward()
    assert len(captions) == BATCH
    # two scenes, each with words and without; then the groups
    assert [bool(caption) for caption in captions[:4]] == [True, False] * 2
    names = {word: shape for shape in SHAPES for word in SHAPE_WORDS.get(shape, (shape,))}
    for first in range(4, BATCH, len(SHAPES)):
        named = [{names[word] for word in c.replace(",", "").split() if word in names} for c in captions[first:][:4]]
        assert sorted(name for (name,) in named) == sorted(SHAPES)
    # nothing over frames learns from stills
    assert all(parameter.grad is None for parameter in lesson.new)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in lesson.still)


def test_zeroscope_then_learns_them_from_clips_while_stills_and_motions_go_on(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    word = teacher.word

    def seen(attribute: str, groups: int, times: tuple[float, ...] | None, draw: random.Random) -> Questions:
        asked.append((attribute, len(times or (0.0,))))
        return word(attribute, groups, times, draw)

    monkeypatch.setattr(teacher, "word", seen)
    lesson = Lessons(video.build(), teacher)
    for step in range(4):
        assert lesson.moving_shape_loss(step, random.Random(step)) > 0
    assert asked == [("shape", FEW_FRAMES), ("shape", 1), ("shape", FEW_FRAMES), ("motion", FEW_FRAMES)]
    asked.clear()
    for step in (4, 5, 10, 11):
        assert lesson.later_clip_loss(step, random.Random(step)) > 0
    assert {attribute for attribute, _ in asked} == {"shape"}
    assert {frames for _, frames in asked} == {FEW_FRAMES, WHOLE}


def test_high_noise_weighs_more_than_by_min_snr_and_less_than_by_the_picture() -> None:
    strengths = torch.tensor([0.0025, 0.25, 1.0, 4.0, 50.0])
    assert torch.allclose(weight(strengths, finer=1), torch.tensor([20.0, 2.0, 1.0, 1.0, 0.1]))


def test_a_caption_that_is_half_believed_counts_as_much_as_the_noise_allows(posterior: Posterior) -> None:
    names = frozenset({"colour", "motion"})
    noise = torch.randn(3, 4, 8, 8)
    sure, anything, half = (
        told(posterior, noise, WHITE, SCENE, *asked)
        for asked in ((names, TIMES, 1.0), (None, TIMES, 1.0), (names, TIMES, 0.5))
    )
    assert torch.allclose(half, (sure + anything) / 2, atol=1e-3)  # noise alone says nothing of the caption
    other = posterior.clip(replace(SCENE, colour="blue"), TIMES, random.Random(10))
    assert torch.allclose(told(posterior, other, CLEAR, SCENE, names, TIMES, 0.5), other, atol=1e-3)
    assert (told(posterior, other, CLEAR, SCENE, names, TIMES, 1.0) - other).abs().max() > 0.5


def test_a_caption_that_is_heeded_less_goes_a_part_of_the_way_under_any_noise(posterior: Posterior) -> None:
    names = frozenset({"colour", "motion"})
    shown = posterior.clip(replace(SCENE, colour="blue"), TIMES, random.Random(10))
    for alpha_bar in (WHITE, torch.tensor(0.3), CLEAR):
        noised = alpha_bar.sqrt() * shown + (1 - alpha_bar).sqrt() * torch.randn(3, 4, 8, 8)
        whole, nothing = (told(posterior, noised, alpha_bar, SCENE, asked, TIMES) for asked in (names, None))
        less = told(posterior, noised, alpha_bar, SCENE, names, TIMES, heeded=0.25)
        # classifier-free guidance by 4 (Ho and Salimans, arXiv 2207.12598) goes the whole way then
        assert torch.allclose(nothing + 4 * (less - nothing), whole, atol=1e-4)


def test_what_a_caption_changes_counts_as_much_where_it_is_heeded_less(teacher: Teacher) -> None:
    losses = []
    for asking in (teacher, teacher.heeding_less()):
        torch.manual_seed(4)
        asked = asking.word("colour", 2, None, random.Random(5))
        alike = asked.wanted.unflatten(0, (2, 4)).mean(dim=1, keepdim=True).expand(-1, 4, -1, -1, -1, -1)
        losses.append(asked.loss(alike.flatten(0, 1)))  # nothing of the words is answered
    assert losses[0] > 0
    assert torch.isclose(*losses, rtol=1e-4)
