"""FILM for the world: the motion of a shape first, which is known here, then the picture half-way.

Triplets are of one shape that goes a short way in any direction, as from a clip's frame to one some frames later. Its
colour or its form may change on the way, as in a walk from one prompt to another; then half-way it is the mean of both.
Last come shapes that stay and go a part of the way to another colour and form: else hues between two frames of a walk,
which are nearly the same, lay beside both.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from random_weights.film import begin_as_mean
from random_weights.stable_diffusion import half
from safetensors.torch import save_file
from sd_animation.film import LEVELS, SPECIALIZED_LEVELS, Film, Widths, published_key, warp
from torch import nn

from demo_weights.train.training import Plan, fit
from demo_weights.world import LOOKS, SIZES, draw, random_scene

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from demo_weights.world import Scene

WIDTHS = Widths(4, (4, 8, 16, 16))
FLOW = Plan(steps=4000, learning_rate=5e-3, warm_up=30, mean_over=30)
PICTURE = Plan(steps=1200, learning_rate=2e-3, warm_up=30, mean_over=50)
FADE = Plan(steps=1500, learning_rate=1e-3, warm_up=30, mean_over=50, seed=17)
SIDE = 128  # that pictures are drawn at
CROP = 64  # of them, which a shape nearly fills
BATCH = 4
EXAMPLES = 800  # whose features the motion is learned from
FLOW_BATCH = 64
COARSE = range(SPECIALIZED_LEVELS, LEVELS)  # the levels that share their motion's weights
FURTHEST = 0.15  # of the side that a shape goes: 19 of 128 pixels
CHANGED = 0.3  # how often a shape changes its colour, and how often its form
FADES_COUNT = 2  # times as much as those of shapes that go somewhere, whose errors are larger


@dataclass(frozen=True)
class Triplets:
    """Two pictures and what lies between them at `times`: (B, 3, CROP, CROP) in 0 to 1."""

    start: torch.Tensor
    between: torch.Tensor
    stop: torch.Tensor
    times: torch.Tensor  # (B,)


@dataclass(frozen=True)
class Moves(Triplets):
    """Triplets of shapes that go somewhere."""

    ways: torch.Tensor  # from the start to the stop, (B, 2, 1, 1): dx, dy in pixels
    inside: torch.Tensor  # the disc of the shape's area half-way, (B, 1, CROP, CROP), 1 or 0


def train(folder: Path, flow: Plan = FLOW, picture: Plan = PICTURE, fade: Plan = FADE) -> Film:
    """Train the coarse levels' motion on what it was, then everything but the features on the picture in between."""
    film = begin()
    predictor = film.predict_flow._predictor
    examples = functools.cache(lambda: _examples(film))  # which a training that is done never draws

    def flow_loss(step: int, draw_from: random.Random) -> torch.Tensor:
        known = examples()
        chosen = torch.tensor(draw_from.sample(range(EXAMPLES), FLOW_BATCH))
        start, stop = ([level[chosen] for level in pyramid] for pyramid in (known.start, known.stop))
        ways, inside = known.ways[chosen], known.inside[chosen]
        return (_error(predictor, start, stop, ways, inside) + _error(predictor, stop, start, -ways, inside)) / 2

    def picture_loss(step: int, draw_from: random.Random) -> torch.Tensor:
        return error(moves(draw_from, BATCH))

    def fade_loss(step: int, draw_from: random.Random) -> torch.Tensor:
        return FADES_COUNT * error(fades(draw_from, BATCH)) if step % 2 else picture_loss(step, draw_from)

    def error(given: Triplets) -> torch.Tensor:
        with torch.no_grad():
            start, stop = film.features(given.start), film.features(given.stop)
        return (film.between(start, stop, given.times) - given.between).abs().mean()

    fit("film-flow", predictor.parameters(), flow, flow_loss, folder)
    fit("film", [*film.predict_flow.parameters(), *film.fuse.parameters()], picture, picture_loss, folder)
    fit("film-fade", [*film.predict_flow.parameters(), *film.fuse.parameters()], fade, fade_loss, folder)
    return film.eval().requires_grad_(False)


def begin() -> Film:
    """Return a network of random features that sees no motion yet and makes the mean of its two pictures."""
    torch.manual_seed(7)
    film = Film(WIDTHS)
    with torch.no_grad():
        for name, parameter in film.extract.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, a=0.2)
        for estimator in (film.predict_flow._predictor, *film.predict_flow._predictors):
            for parameter in estimator._convs[-1].parameters():
                parameter.zero_()
        begin_as_mean(dict(film.named_parameters()), WIDTHS)
    return film


@dataclass(frozen=True)
class Examples:
    """What the motion is learned from: the pictures' coarse features, the finest first, and the right answer."""

    start: list[torch.Tensor]
    stop: list[torch.Tensor]
    ways: torch.Tensor
    inside: torch.Tensor


@torch.no_grad()
def _examples(film: Film) -> Examples:
    """Draw the examples and take their features, which do not learn."""
    draw_from = random.Random("film")
    batches = [moves(draw_from, 8) for _ in range(EXAMPLES // 8)]
    start, stop = (
        [torch.cat(level) for level in zip(*(film.features(part)[COARSE.start :] for part in parts), strict=True)]
        for parts in ([batch.start for batch in batches], [batch.stop for batch in batches])
    )
    ways, inside = (torch.cat(parts) for parts in zip(*((batch.ways, batch.inside) for batch in batches), strict=True))
    return Examples(start, stop, ways, inside)


def _error(
    predictor: nn.Module, start: list[torch.Tensor], stop: list[torch.Tensor], ways: torch.Tensor, inside: torch.Tensor
) -> torch.Tensor:
    """Return how far the coarse motion is from what it was, inside the shape, in pixels; the mean of all levels."""
    errors: list[torch.Tensor] = []
    flow = torch.zeros_like(start[-1][:, :2])
    for level, first, second in zip(reversed(COARSE), reversed(start), reversed(stop), strict=True):
        if errors:
            flow = 2 * nn.functional.interpolate(flow, scale_factor=2, mode="bilinear")
        flow = flow + predictor(first, warp(second, flow))
        there = nn.functional.avg_pool2d(inside, 2**level)
        errors.append(((flow * 2**level - ways).abs() * there).sum() / (2 * there.sum()))
    return torch.stack(errors).mean()


def moves(draw_from: random.Random, count: int) -> Moves:
    """Draw a batch of shapes that go a short way."""
    firsts, lasts, ways, corners = [], [], [], []
    for _ in range(count):
        first, way = _short_way(random_scene(draw_from), draw_from)
        firsts.append(first)
        lasts.append(_changed(first, draw_from))
        ways.append(way)
        corners.append([_corner(middle, draw_from) for middle in _place(first, 0.5)])
    # half of them are the middle, the others nearer to one end
    times = torch.tensor([0.5 if draw_from.random() < 0.5 else draw_from.uniform(0.3, 0.7) for _ in range(count)])
    look = _look(draw_from)

    def pictures(scenes: list[Scene], at: torch.Tensor) -> torch.Tensor:
        return _cropped((draw(scenes, at, SIDE, look) + 1) / 2, corners)

    between = torch.lerp(pictures(firsts, times), pictures(lasts, times), times.view(-1, 1, 1, 1))
    inside = torch.stack([_disc(scene, time) for scene, time in zip(firsts, times.tolist(), strict=True)])
    start, stop = pictures(firsts, torch.zeros(count)), pictures(lasts, torch.ones(count))
    return Moves(start, between, stop, times, torch.tensor(ways).view(-1, 2, 1, 1), _cropped(inside, corners))


def fades(draw_from: random.Random, count: int) -> Triplets:
    """Draw a batch of shapes that stay where they are and go a part of the way to another colour and form, often short.

    In the middle they are the mean of both; what fuses the pictures is not told of any other time.
    """
    firsts, lasts, corners, begun, gone = [], [], [], [], []
    for _ in range(count):
        other, moment = random_scene(draw_from), draw_from.random()
        first = random_scene(draw_from)
        first = replace(first, start=_place(first, moment), end=_place(first, moment))
        firsts.append(first)
        lasts.append(replace(first, colour=other.colour, shape=other.shape))
        corners.append([_corner(middle, draw_from) for middle in first.start])
        begun.append(draw_from.random() / 2)
        gone.append(draw_from.random() ** 2)
    look = _look(draw_from)
    one, another = (
        _cropped((draw(scenes, torch.zeros(count), SIDE, look) + 1) / 2, corners) for scenes in (firsts, lasts)
    )
    at = torch.tensor(begun).view(-1, 1, 1, 1)
    start = torch.lerp(one, another, at)
    stop = torch.lerp(start, another, torch.tensor(gone).view(-1, 1, 1, 1))
    return Triplets(start, (start + stop) / 2, stop, torch.full((count,), 0.5))


def write(film: Film, file: Path) -> None:
    """Write it as the published file has it, in half precision."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(half({name: p.detach() for name, p in film.named_parameters()}, published_key), file)


def _short_way(scene: Scene, draw_from: random.Random) -> tuple[Scene, tuple[float, float]]:
    """Let a scene's shape go a short way about the middle of its own; the way is in pixels."""
    angle, length = draw_from.uniform(0, 2 * math.pi), draw_from.uniform(0, FURTHEST)
    dx, dy = length * math.cos(angle), length * math.sin(angle)
    x, y = ((a + b) / 2 for a, b in zip(scene.start, scene.end, strict=True))
    moved = replace(scene, start=(x - dx / 2, y - dy / 2), end=(x + dx / 2, y + dy / 2))
    return moved, (SIDE * dx, SIDE * dy)


def _place(scene: Scene, time: float) -> tuple[float, float]:
    """Return where a scene's shape is at a time, (x, y) as shares of the side."""
    x, y = (a + time * (b - a) for a, b in zip(scene.start, scene.end, strict=True))
    return x, y


def _look(draw_from: random.Random) -> str:
    return draw_from.choice(("flat", "flat", *LOOKS))


def _cropped(whole: torch.Tensor, corners: Sequence[Sequence[int]]) -> torch.Tensor:
    """Cut (left, top) corners' CROP out of pictures."""
    parts = zip(whole, corners, strict=True)
    return torch.stack([part[:, top : top + CROP, left : left + CROP] for part, (left, top) in parts])


def _corner(middle: float, draw_from: random.Random) -> int:
    """Draw where a crop begins that has the shape's middle near its own."""
    return max(0, min(SIDE - CROP, round(SIDE * middle) - CROP // 2 + draw_from.randint(-12, 12)))


def _changed(scene: Scene, draw_from: random.Random) -> Scene:
    """Give a scene another colour or form, or none of both."""
    other = random_scene(draw_from)
    colour = other.colour if draw_from.random() < CHANGED else scene.colour
    shape = other.shape if draw_from.random() < CHANGED else scene.shape
    return replace(scene, colour=colour, shape=shape)


def _disc(scene: Scene, time: float) -> torch.Tensor:
    """The pixels nearer to the shape's centre than its radius, (1, SIDE, SIDE)."""
    x, y = _place(scene, time)
    pixels = (torch.arange(SIDE) + 0.5) / SIDE
    return (torch.hypot(pixels[None, None, :] - x, pixels[None, :, None] - y) < SIZES[scene.size]).float()
