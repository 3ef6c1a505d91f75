"""FILM for the world: its motion is trained on the known motion of shapes, then all of it on the picture in between.

A triplet has one shape that moves a short way, as between frames of a clip. Its colour or form may change on the way,
as between frames of a prompt walk; the target is the mean of both then. The last stage adds fades: still shapes that
change part of the way to another colour and form, as neighbouring frames of a walk are nearly equal.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from random_weights.film import init_as_mean
from sd_animation.film import LEVELS, SPECIALIZED_LEVELS, Film, Widths, warp
from torch import nn

from demo_weights.train.loop import Plan, fit
from demo_weights.world import SIZES, STYLES, draw, random_scene

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from demo_weights.world import Scene

WIDTHS = Widths(4, (4, 8, 16, 16))
FLOW = Plan(steps=4000, learning_rate=5e-3, warmup_steps=30, average_steps=30)
PICTURE = Plan(steps=1200, learning_rate=2e-3, warmup_steps=30, average_steps=50)
FADE = Plan(steps=1500, learning_rate=1e-3, warmup_steps=30, average_steps=50, seed=17)
SIDE = 128  # of a picture, in pixels
CROP = 64  # side of a crop, which a shape nearly fills
BATCH = 4
EXAMPLES = 800  # of the flow stage, whose features are computed once
FLOW_BATCH = 64
COARSE_LEVELS = range(SPECIALIZED_LEVELS, LEVELS)  # which share the weights of their flow
MAX_DISTANCE = 0.15  # of the side that a shape moves: 19 of 128 pixels
CHANGE_SHARE = 0.3  # of shapes whose colour changes, and of shapes whose form changes
FADE_WEIGHT = 2  # of the loss of fades, whose errors are smaller


@dataclass(frozen=True)
class Triplets:
    """Two pictures and the picture between them at `times`: (B, 3, CROP, CROP) in 0 to 1."""

    start: torch.Tensor
    between: torch.Tensor
    stop: torch.Tensor
    times: torch.Tensor  # (B,)


@dataclass(frozen=True)
class MovingTriplets(Triplets):
    """Triplets of moving shapes."""

    flow: torch.Tensor  # from start to stop, (B, 2, 1, 1): dx, dy in pixels
    inside: torch.Tensor  # 1 on a disc of the shape's area half-way, else 0: (B, 1, CROP, CROP)


def train(folder: Path) -> Film:
    """Return FILM: the coarse flow trained on the known flow, then all but the features on the picture in between."""
    film = build()
    predictor = film.predict_flow._predictor
    examples = functools.cache(lambda: _examples(film))  # not drawn if the stage is complete

    def flow_loss(step: int, rng: random.Random) -> torch.Tensor:
        chosen = torch.tensor(rng.sample(range(EXAMPLES), FLOW_BATCH))
        all_starts, all_stops, flows, discs = examples()
        start, stop = ([level[chosen] for level in levels] for levels in (all_starts, all_stops))
        flow, inside = flows[chosen], discs[chosen]
        forward = _flow_error(predictor, start, stop, flow, inside)
        return (forward + _flow_error(predictor, stop, start, -flow, inside)) / 2

    def picture_loss(step: int, rng: random.Random) -> torch.Tensor:
        return picture_error(moving_triplets(rng, BATCH))

    def fade_loss(step: int, rng: random.Random) -> torch.Tensor:
        return FADE_WEIGHT * picture_error(fades(rng, BATCH)) if step % 2 else picture_loss(step, rng)

    def picture_error(given: Triplets) -> torch.Tensor:
        with torch.no_grad():
            start, stop = film.features(given.start), film.features(given.stop)
        return (film.between(start, stop, given.times) - given.between).abs().mean()

    all_but_features = [*film.predict_flow.parameters(), *film.fuse.parameters()]
    fit("film-flow", predictor.parameters(), FLOW, flow_loss, folder)
    fit("film", all_but_features, PICTURE, picture_loss, folder)
    fit("film-fade", all_but_features, FADE, fade_loss, folder)
    return film.eval().requires_grad_(False)


def build() -> Film:
    """Return a network with random features whose flow is zero and whose output is the mean of its two pictures."""
    torch.manual_seed(7)
    film = Film(WIDTHS)
    with torch.no_grad():
        for name, parameter in film.extract.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, a=0.2)
        for estimator in (film.predict_flow._predictor, *film.predict_flow._predictors):
            for parameter in estimator._convs[-1].parameters():
                parameter.zero_()
        init_as_mean(dict(film.named_parameters()), WIDTHS)
    return film


@torch.no_grad()
def _examples(film: Film) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return the coarse features of both pictures, the finest level first, the flow, and the disc, of all examples."""
    rng = random.Random("film")
    batches = [moving_triplets(rng, 8) for _ in range(EXAMPLES // 8)]
    first = COARSE_LEVELS.start
    start, stop = (
        [torch.cat(level) for level in zip(*(film.features(part)[first:] for part in parts), strict=True)]
        for parts in ([batch.start for batch in batches], [batch.stop for batch in batches])
    )
    return start, stop, torch.cat([batch.flow for batch in batches]), torch.cat([batch.inside for batch in batches])


def _flow_error(
    predictor: nn.Module,
    start: list[torch.Tensor],
    stop: list[torch.Tensor],
    target: torch.Tensor,
    inside: torch.Tensor,
) -> torch.Tensor:
    """Return the mean absolute error of the coarse flow inside the shape, in pixels, over all levels."""
    errors: list[torch.Tensor] = []
    flow = torch.zeros_like(start[-1][:, :2])
    for level, first, second in zip(reversed(COARSE_LEVELS), reversed(start), reversed(stop), strict=True):
        if errors:
            flow = 2 * nn.functional.interpolate(flow, scale_factor=2, mode="bilinear")
        flow = flow + predictor(first, warp(second, flow))
        weights = nn.functional.avg_pool2d(inside, 2**level)
        errors.append(((flow * 2**level - target).abs() * weights).sum() / (2 * weights.sum()))
    return torch.stack(errors).mean()


def moving_triplets(rng: random.Random, count: int) -> MovingTriplets:
    """Return triplets of shapes that move a short way."""
    firsts, lasts, flows, corners = [], [], [], []
    for _ in range(count):
        first, way = _with_short_path(random_scene(rng), rng)
        firsts.append(first)
        lasts.append(_with_random_change(first, rng))
        flows.append(way)
        corners.append([_random_corner(centre, rng) for centre in _position(first, 0.5)])
    # half of the targets are half-way, the others nearer to one end
    times = torch.tensor([0.5 if rng.random() < 0.5 else rng.uniform(0.3, 0.7) for _ in range(count)])
    style = _random_style(rng)

    def pictures(scenes: list[Scene], at: torch.Tensor) -> torch.Tensor:
        return _crop((draw(scenes, at, SIDE, style) + 1) / 2, corners)

    between = torch.lerp(pictures(firsts, times), pictures(lasts, times), times.view(-1, 1, 1, 1))
    inside = torch.stack([_disc(scene, time) for scene, time in zip(firsts, times.tolist(), strict=True)])
    start, stop = pictures(firsts, torch.zeros(count)), pictures(lasts, torch.ones(count))
    flow = torch.tensor(flows).view(-1, 2, 1, 1)
    return MovingTriplets(start, between, stop, times, flow, _crop(inside, corners))


def fades(rng: random.Random, count: int) -> Triplets:
    """Return triplets of still shapes that change part of the way to another colour and form, often little.

    The target is the mean, at time 0.5.
    """
    firsts, lasts, corners, starts, lengths = [], [], [], [], []
    for _ in range(count):
        other, time = random_scene(rng), rng.random()
        first = random_scene(rng)
        first = replace(first, start=_position(first, time), end=_position(first, time))
        firsts.append(first)
        lasts.append(replace(first, colour=other.colour, shape=other.shape))
        corners.append([_random_corner(centre, rng) for centre in first.start])
        starts.append(rng.random() / 2)
        lengths.append(rng.random() ** 2)
    style = _random_style(rng)
    first_pictures, last_pictures = (
        _crop((draw(scenes, torch.zeros(count), SIDE, style) + 1) / 2, corners) for scenes in (firsts, lasts)
    )
    start = torch.lerp(first_pictures, last_pictures, torch.tensor(starts).view(-1, 1, 1, 1))
    stop = torch.lerp(start, last_pictures, torch.tensor(lengths).view(-1, 1, 1, 1))
    return Triplets(start, (start + stop) / 2, stop, torch.full((count,), 0.5))


def _with_short_path(scene: Scene, rng: random.Random) -> tuple[Scene, tuple[float, float]]:
    """Return a scene that moves a short way around the middle of its path, and the way (dx, dy) in pixels."""
    angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(0, MAX_DISTANCE)
    dx, dy = length * math.cos(angle), length * math.sin(angle)
    x, y = ((a + b) / 2 for a, b in zip(scene.start, scene.end, strict=True))
    moved = replace(scene, start=(x - dx / 2, y - dy / 2), end=(x + dx / 2, y + dy / 2))
    return moved, (SIDE * dx, SIDE * dy)


def _position(scene: Scene, time: float) -> tuple[float, float]:
    """Return the shape's position at a time, (x, y) in fractions of the side."""
    x, y = (a + time * (b - a) for a, b in zip(scene.start, scene.end, strict=True))
    return x, y


def _random_style(rng: random.Random) -> str:
    return rng.choice(("flat", "flat", *STYLES))


def _crop(pictures: torch.Tensor, corners: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return a crop of each picture, with its (left, top) corner given."""
    pairs = zip(pictures, corners, strict=True)
    return torch.stack([picture[:, top : top + CROP, left : left + CROP] for picture, (left, top) in pairs])


def _random_corner(centre: float, rng: random.Random) -> int:
    """Return the first row or column of a crop whose centre is near the shape's."""
    return max(0, min(SIDE - CROP, round(SIDE * centre) - CROP // 2 + rng.randint(-12, 12)))


def _with_random_change(scene: Scene, rng: random.Random) -> Scene:
    """Return a scene whose colour or form may have changed."""
    other = random_scene(rng)
    colour = other.colour if rng.random() < CHANGE_SHARE else scene.colour
    shape = other.shape if rng.random() < CHANGE_SHARE else scene.shape
    return replace(scene, colour=colour, shape=shape)


def _disc(scene: Scene, time: float) -> torch.Tensor:
    """Return 1 for the pixels nearer to the shape's centre than its radius, else 0: (1, SIDE, SIDE)."""
    x, y = _position(scene, time)
    pixels = (torch.arange(SIDE) + 0.5) / SIDE
    return (torch.hypot(pixels[None, None, :] - x, pixels[None, :, None] - y) < SIZES[scene.size]).float()
