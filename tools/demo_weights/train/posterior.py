"""The best answer of a denoiser, reckoned: the mean of every clip that a caption means, as likely as the noise says.

The world is so small that all its pictures can be written down, as latents: each colour, shape and size on each
background at each of some places. Then what a denoiser should say is a weighted mean and need not be learnt from single
examples, whose spread at the high noise levels hides what a caption asks for. Networks that are taught it follow
captions after a tenth of the steps.

A picture is an empty background and a stamp, moved by whole cells of the latents; there is a stamp for each fraction of
a cell. So how likely each place is comes from a convolution with the stamps, and the mean from the transposed one.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from demo_weights.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    TRAVEL,
    Scene,
    draw,
    is_held_out,
    middles,
    reach,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL

    Kinds = tuple[slice, slice, slice]  # of (colour, shape, background)
    Caption = tuple[Scene, frozenset[str] | None]  # what is named of a scene beside its shape; None: nothing at all

CELL = 8  # pixels of a latent's side
GRID = 32  # places across and down the picture where a shape's middle may be
MOMENTS = (0.0, 1 / 3, 2 / 3, 1.0)  # of a clip, that a single picture is taken at
AT_ONCE = 16  # pictures of 64x64 through the VAE, or as many pixels
OUTSIDE = -9.0  # a place where a shape is not seen
NEGLIGIBLE = 1e-7  # a likelihood against the highest one
HALO = 2  # cells around a shape that it changes


class Posterior:
    """All pictures of the world in one look and size, as latents with variance 1."""

    def __init__(self, side: int, empty: torch.Tensor, stamps: Mapping[str, torch.Tensor]) -> None:
        """`empty` are the backgrounds (B, 4, h, w), `stamps` what a shape in the middle adds to them.

        They are by size (colour, shape, background, phase down, phase across, 4, h, w), in the world's order.
        """
        self.side = side
        self.empty = empty
        self._stamps = {size: _Stamps(size, side, empty, whole) for size, whole in stamps.items()}

    @classmethod
    def made(cls, vae: AutoencoderKL, side: int, look: str, file: Path) -> Posterior:
        """Draw and encode what all pictures consist of, or take it from `file` where that was done before.

        What a shape changes in its background's latents is the same wherever it is, but for a fraction of a cell.
        """
        phases = _phases(side)
        if not file.exists():
            kinds = itertools.product(COLOURS, SHAPES, BACKGROUNDS)
            within = [0.5 + phase / GRID for phase in range(phases)]
            places = [(kind, x, y) for kind in kinds for y in within for x in within]
            stamps = {
                size: _encoded(vae, [_still(*kind, size, x, y) for kind, x, y in places], side, look) for size in SIZES
            }
            empty = _encoded(vae, [_still(background=name, x=OUTSIDE) for name in BACKGROUNDS], side, look)
            torch.save({"empty": empty, "stamps": stamps}, file)
        kept = torch.load(file, weights_only=True)
        kinds_and_phases = (len(COLOURS), len(SHAPES), len(BACKGROUNDS), phases, phases)
        added = {
            size: whole.unflatten(0, kinds_and_phases) - kept["empty"][:, None, None]
            for size, whole in kept["stamps"].items()
        }
        return cls(side, kept["empty"], added)

    def clip(
        self, scene: Scene, times: Sequence[float], draw_from: random.Random, astray: Sequence[tuple[int, int]] = ()
    ) -> torch.Tensor:
        """Return a scene at these times, anywhere, frames `astray` by places (down, across): latents (F, 4, h, w)."""
        count = len(_span(scene.size))
        places = torch.arange(count * count).reshape(count, count).expand(len(times), -1, -1)
        windows = _windows(places, scene.size, scene.motion, times)
        way = draw_from.randrange(windows[0].numel())
        at_places = torch.zeros(len(times), 1, 1, 1, count, count)
        for frame, window, beside in zip(at_places, windows, astray or [(0, 0)] * len(times), strict=True):
            place = divmod(int(window.flatten()[way]), count)
            down, across = (min(max(p + b, 0), count - 1) for p, b in zip(place, beside, strict=True))
            frame[..., down, across] = 1
        return self._pictures({scene.size: at_places}, _kinds(scene, ("colour", "shape", "background")))

    def answers(
        self,
        noised: torch.Tensor,
        alpha_bar: torch.Tensor,
        captions: Sequence[Caption],
        times: Sequence[float],
        trust: float = 1.0,
        heeded: float = 1.0,
    ) -> torch.Tensor:
        """Return for each caption the mean of what (F, 4, h, w) may have been before the noise.

        A caption names its scene's shape and more words, or nothing. `times` are of the frames; one picture alone may
        be of any of MOMENTS. Held-out combinations are no part of what clips may be. The result is (N, F, 4, h, w).

        A caption is right in a share `trust` of all cases, and else says nothing. Guidance adds as many times what a
        caption changes. A network that trusts it less is guided less far at the first levels, and at the last ones
        believes its eyes: so it can be guided at the scale that people use. Or by going the share `heeded` of the way.
        """
        likely = {size: stamps.likely(noised, alpha_bar) for size, stamps in self._stamps.items()}
        nothing = captions[0][0], None
        told = {caption: self._told(likely, *caption, times) for caption in dict.fromkeys([*captions, nothing])}
        anything, likely_anything = told[nothing]
        odds = math.log(trust / (1 - trust)) if trust < 1 else math.inf
        believed = {caption: heeded * torch.sigmoid(how - likely_anything + odds) for caption, (_, how) in told.items()}
        return torch.stack([torch.lerp(anything, told[caption][0], believed[caption]) for caption in captions])

    def _told(
        self, likely: Mapping[str, torch.Tensor], scene: Scene, names: frozenset[str] | None, times: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean (F, 4, h, w), and how likely the noised clip is with that caption, a logarithm."""
        kinds = _kinds(scene, () if names is None else {*names, "shape"})
        sizes = [scene.size] if names is not None and "size" in names else list(SIZES)
        motions = [scene.motion] if names is not None and "motion" in names else list(MOTIONS)
        ways: list[tuple[str, str | None, torch.Tensor]] = []  # a single picture has no motion
        count = 0
        for size in sizes:
            of_kinds = likely[size][:, *kinds]  # (F, C, S, B, n, n)
            if len(times) == 1:
                ways.append((size, None, of_kinds[0] + _chances(size, tuple(motions)).log()))
                count += of_kinds[0, ..., 0, 0].numel()
                continue
            for motion in motions:
                windows = _windows(of_kinds, size, motion, times)
                of_ways = torch.stack(windows).sum(dim=0) - math.log(windows[0][0, 0, 0].numel())
                held_out = _held_out(motion)[kinds]
                ways.append((size, motion, of_ways.masked_fill(held_out[..., None, None], -torch.inf)))
                count += int((~held_out).sum())
        highest = max(of_ways.max() for _, _, of_ways in ways)
        total = torch.zeros(())
        at_places = {size: torch.zeros_like(likely[size][:, *kinds]) for size in sizes}
        for size, of_motion, of_ways in ways:
            weights = (of_ways - highest).exp()
            total += weights.sum()
            whole = at_places[size]
            for window in whole if of_motion is None else _windows(whole, size, of_motion, times):
                window += weights
        return self._pictures(at_places, kinds) / total, highest + (total / count).log()

    def _pictures(self, at_places: Mapping[str, torch.Tensor], kinds: Kinds) -> torch.Tensor:
        """Return the sum of these kinds' pictures, with weights by size (F, colour, shape, background, n, n)."""
        stamped = sum(self._stamps[size].pictures(weights, kinds) for size, weights in at_places.items())
        backgrounds = sum(weights.sum(dim=(1, 2, 4, 5)) for weights in at_places.values())
        return stamped + torch.einsum("fb,bchw->fchw", backgrounds, self.empty[kinds[2]])


class _Stamps:
    """A size's stamps, as kernels of a convolution: (colour, shape, background, phases, 4, k, k)."""

    def __init__(self, size: str, side: int, empty: torch.Tensor, whole: torch.Tensor) -> None:
        cells, middle = side // CELL, side // CELL // 2
        self.phases = _phases(side)
        self.empty = empty
        around = math.ceil(reach(size) * cells) + HALO
        self.first, last = max(0, middle - around), min(cells, middle + around + 1)
        self.kernels = whole[..., self.first : last, self.first : last].flatten(3, 4).contiguous()
        span = _span(size)
        self.lowest = (span[0] - GRID // 2) // self.phases  # cells that a stamp is moved by
        self.moves = (span[-1] - GRID // 2) // self.phases - self.lowest + 1
        self.begin, self.count = span[0] - GRID // 2 - self.lowest * self.phases, len(span)  # of the places moved to
        shapes = self._alike(torch.ones_like(empty[:1]), self.kernels.square())
        crossed = self._alike(empty, self.kernels).diagonal(dim1=0, dim2=3).movedim(-1, 2)
        self.squares = shapes[0] + 2 * crossed + empty.square().sum(dim=(1, 2, 3))[:, None, None]

    def likely(self, noised: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        """Return how likely (F, 4, h, w) is with each picture, a logarithm: (F, colour, shape, background, n, n)."""
        alike = self._alike(noised, self.kernels)
        alike = alike + torch.einsum("fchw,bchw->fb", noised, self.empty)[:, None, None, :, None, None]
        return (alpha_bar.sqrt() * alike - 0.5 * alpha_bar * self.squares) / (1 - alpha_bar)

    def pictures(self, weights: torch.Tensor, kinds: Kinds) -> torch.Tensor:
        """Return the sum of these kinds' stamps with weights (F, colour, shape, background, n, n): (F, 4, h, w)."""
        margins = (self.begin, self.moves * self.phases - self.begin - self.count) * 2
        of_moves = F.pixel_unshuffle(F.pad(weights.flatten(1, 3), margins), self.phases)
        counts = of_moves > NEGLIGIBLE
        if not counts.any():
            return torch.zeros(len(weights), *self.empty.shape[1:])
        some = counts.any(dim=3).any(dim=2).any(dim=0)  # of the kinds and phases
        (top, bottom), (left, right) = (_bounds(counts.any(dim=1).any(dim=0).any(dim=axis)) for axis in (1, 0))
        kernels = self.kernels[kinds].flatten(0, 3)[some]
        # conv_transpose2d in two steps, which are several times faster on a CPU
        size = kernels.shape[-1]
        height, width = bottom - top + size - 1, right - left + size - 1
        moved = of_moves[:, some, top:bottom, left:right].movedim(1, -1).flatten(0, 2) @ kernels.flatten(1)
        summed = F.fold(moved.reshape(len(weights), -1, moved.shape[-1]).mT, (height, width), (size, size))
        top, left, cells = top + self.first + self.lowest, left + self.first + self.lowest, self.empty.shape[-1]
        return F.pad(summed, (left, cells - left - width, top, cells - top - height))

    def _alike(self, latents: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
        """Return the products of latents (N, 4, h, w) with each stamp at each place, in the form of `likely`."""
        first = self.first + self.lowest
        last = first + self.moves - 1 + kernels.shape[-1]
        around = F.pad(latents, (-first, last - latents.shape[-1]) * 2)  # zeros outside of the picture
        places = slice(self.begin, self.begin + self.count)
        of_moves = F.conv2d(around, kernels.flatten(0, 3))
        of_places = F.pixel_shuffle(of_moves, self.phases)[..., places, places]
        return of_places.reshape(len(latents), *kernels.shape[:3], self.count, self.count)


def _bounds(flags: torch.Tensor) -> tuple[int, int]:
    """Return where the first of some flags is set, and where the last one, plus one."""
    places = flags.nonzero()
    return int(places[0]), int(places[-1]) + 1


def _phases(side: int) -> int:
    """How many places there are across a cell."""
    return max(1, GRID * CELL // side)


def _kinds(scene: Scene, names: Collection[str]) -> Kinds:
    """Return where a scene's kind is, (colour, shape, background), or all kinds that are alike in `names`."""
    of_scene = {
        "colour": list(COLOURS).index(scene.colour),
        "shape": SHAPES.index(scene.shape),
        "background": list(BACKGROUNDS).index(scene.background),
    }
    colour, shape, background = (slice(i, i + 1) if name in names else slice(None) for name, i in of_scene.items())
    return colour, shape, background


def _span(size: str) -> range:
    """The places, of GRID, between which a shape of this size stands still."""
    first = math.ceil(middles(size, "still")[0][0] * GRID)
    return range(first, GRID - first + 1)


def _windows(at_places: torch.Tensor, size: str, motion: str, times: Sequence[float]) -> list[torch.Tensor]:
    """Return of each frame, (F, ..., n, n), the places where it is on all ways of a motion: views (..., ways, ways)."""
    count = len(_span(size))
    axes = []
    for step in reversed(MOTIONS[motion]):  # down comes first
        furthest = round(TRAVEL * GRID / 2) * abs(step)
        moved = [round((time - 0.5) * TRAVEL * step * GRID) for time in times]
        axes.append([slice(furthest + m, count - furthest + m) for m in moved])
    return [frame[..., down, across] for frame, down, across in zip(at_places, *axes, strict=True)]


@cache
def _chances(size: str, motions: tuple[str, ...]) -> torch.Tensor:
    """Return how likely each place is for a single picture, with each of these motions as likely."""
    count = len(_span(size))
    chances = torch.zeros(count, count)
    for motion in motions:
        for window in _windows(chances.expand(len(MOMENTS), -1, -1), size, motion, MOMENTS):
            window += 1 / (len(motions) * len(MOMENTS) * window.numel())
    return chances


@cache
def _held_out(motion: str) -> torch.Tensor:
    kinds = [[[is_held_out(c, s, motion)] * len(BACKGROUNDS) for s in SHAPES] for c in COLOURS]
    return torch.tensor(kinds)


def _still(
    colour: str = "red",
    shape: str = "circle",
    background: str = "dark",
    size: str = "small",
    x: float = 0.5,
    y: float = 0.5,
) -> Scene:
    return Scene(colour, shape, "still", size, background, (x, y), (x, y))


@torch.no_grad()
def _encoded(vae: AutoencoderKL, scenes: Iterable[Scene], side: int, look: str) -> torch.Tensor:
    """Return the latents of scenes that stand still, with variance 1: (N, 4, h, w)."""
    scenes, parts = list(scenes), []
    at_once = max(1, AT_ONCE * 64**2 // side**2)
    for first in range(0, len(scenes), at_once):
        some = scenes[first : first + at_once]
        parts.append(vae.encode(draw(some, torch.zeros(len(some)), side, look)).latent_dist.mean)
    latents: torch.Tensor = torch.cat(parts) * vae.config.scaling_factor
    return latents
