"""The exact training target of a denoiser: the posterior mean of the clean clip, given the noised one and a caption.

The world is small enough to list all pictures as latents: every colour, shape and size on every background at every
grid position. The posterior mean is a weighted mean of them, by Bayes' rule. A network that is trained on it follows
captions after a tenth of the steps that single examples take, whose variance hides the caption at high noise.

A picture is an empty background plus a stamp: what a shape adds to the latents. A stamp moves by whole cells of the
latents; there is one for each fraction of a cell. A convolution with the stamps gives the likelihood of every
position, and the transposed convolution gives the mean.
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
    extent,
    is_held_out,
    path_centre_bounds,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL

    Kinds = tuple[slice, slice, slice]  # of (colour, shape, background)
    Caption = tuple[Scene, frozenset[str] | None]  # the attributes named besides the shape; None: empty caption

CELL = 8  # side of a latent in pixels
GRID = 32  # positions of a shape's centre across and down the picture
STILL_TIMES = (0.0, 1 / 3, 2 / 3, 1.0)  # times of a clip that a single picture may show
VAE_BATCH = 16  # pictures of 64x64, or the same number of pixels
OUTSIDE = -9.0  # a position outside of the picture
NEGLIGIBLE = 1e-7  # likelihood relative to the highest one
HALO = 2  # cells around a shape that it changes


class Posterior:
    """All pictures of the world in one style and size, as latents with variance 1."""

    def __init__(self, side: int, empty: torch.Tensor, stamps: Mapping[str, torch.Tensor]) -> None:
        """`empty` are the backgrounds (B, 4, h, w), `stamps` what a shape in the centre adds to them, by size.

        The stamps of a size are (colour, shape, background, phase down, phase across, 4, h, w), in the world's order.
        """
        self.side = side
        self.empty = empty
        self._stamps = {size: _Stamps(size, side, empty, whole) for size, whole in stamps.items()}

    @classmethod
    def load_or_encode(cls, vae: AutoencoderKL, side: int, style: str, file: Path) -> Posterior:
        """Return the posterior from `file`, or draw and encode its pictures and write `file` if it is missing."""
        phases = _phases(side)
        if not file.exists():
            kinds = itertools.product(COLOURS, SHAPES, BACKGROUNDS)
            offsets = [0.5 + phase / GRID for phase in range(phases)]
            positions = [(kind, x, y) for kind in kinds for y in offsets for x in offsets]
            pictures = {
                size: _encode(vae, [_still(*kind, size, x, y) for kind, x, y in positions], side, style)
                for size in SIZES
            }
            without_shape = [_still("red", "circle", name, "small", OUTSIDE, 0.5) for name in BACKGROUNDS]
            empty = _encode(vae, without_shape, side, style)
            torch.save({"empty": empty, "stamps": pictures}, file)
        latents = torch.load(file, weights_only=True)
        kinds_and_phases = (len(COLOURS), len(SHAPES), len(BACKGROUNDS), phases, phases)
        stamps = {
            size: whole.unflatten(0, kinds_and_phases) - latents["empty"][:, None, None]
            for size, whole in latents["stamps"].items()
        }
        return cls(side, latents["empty"], stamps)

    def clip(
        self, scene: Scene, times: Sequence[float], rng: random.Random, offsets: Sequence[tuple[int, int]] = ()
    ) -> torch.Tensor:
        """Return a scene at these times on a random path: latents (F, 4, h, w).

        `offsets` move each frame by grid positions (down, across), as far as the shape stays in the picture.
        """
        count = len(_positions(scene.size))
        numbers = torch.arange(count * count).reshape(count, count).expand(len(times), -1, -1)
        windows = _windows(numbers, scene.size, scene.motion, times)
        path = rng.randrange(windows[0].numel())
        weights = torch.zeros(len(times), 1, 1, 1, count, count)
        for frame, window, offset in zip(weights, windows, offsets or [(0, 0)] * len(times), strict=True):
            position = divmod(int(window.flatten()[path]), count)
            down, across = (min(max(p + o, 0), count - 1) for p, o in zip(position, offset, strict=True))
            frame[..., down, across] = 1
        return self._weighted_sum({scene.size: weights}, _kinds(scene, ("colour", "shape", "background")))

    def means(
        self,
        noised: torch.Tensor,
        alpha_bar: torch.Tensor,
        captions: Sequence[Caption],
        times: Sequence[float],
        caption_prior: float = 1.0,
        target_scale: float = 1.0,
    ) -> torch.Tensor:
        """Return the posterior mean of the clean latents for each caption, given `noised` (F, 4, h, w).

        `times` are those of the frames; a single picture may be of any of STILL_TIMES. Clips are never of a held-out
        combination. The result is (N, F, 4, h, w).

        With `caption_prior` below 1 a caption is true in that share of the cases and without information otherwise:
        its effect, which guidance multiplies, is smaller at high noise. `target_scale` multiplies the effect at every
        noise level. Both let a network be guided at the usual scale.
        """
        likelihoods = {size: stamps.log_likelihoods(noised, alpha_bar) for size, stamps in self._stamps.items()}
        empty_caption = captions[0][0], None
        posteriors = {
            caption: self._mean_and_evidence(likelihoods, *caption, times)
            for caption in dict.fromkeys([*captions, empty_caption])
        }
        unconditional, evidence = posteriors[empty_caption]
        odds = math.log(caption_prior / (1 - caption_prior)) if caption_prior < 1 else math.inf
        conditional = [posteriors[caption] for caption in captions]
        return torch.stack(
            [
                torch.lerp(unconditional, mean, target_scale * torch.sigmoid(own_evidence - evidence + odds))
                for mean, own_evidence in conditional
            ]
        )

    def _mean_and_evidence(
        self,
        likelihoods: Mapping[str, torch.Tensor],
        scene: Scene,
        attributes: frozenset[str] | None,
        times: Sequence[float],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a caption's posterior mean (F, 4, h, w) and its evidence, the log likelihood of the noised clip."""
        kinds = _kinds(scene, () if attributes is None else {*attributes, "shape"})
        sizes = [scene.size] if attributes is not None and "size" in attributes else list(SIZES)
        motions = [scene.motion] if attributes is not None and "motion" in attributes else list(MOTIONS)
        hypotheses: list[tuple[str, str | None, torch.Tensor]] = []  # a single picture has no motion
        count = 0
        for size in sizes:
            of_kinds = likelihoods[size][:, *kinds]  # (F, C, S, B, n, n)
            if len(times) == 1:
                hypotheses.append((size, None, of_kinds[0] + _position_prior(size, tuple(motions)).log()))
                count += of_kinds[0, ..., 0, 0].numel()
                continue
            for motion in motions:
                windows = _windows(of_kinds, size, motion, times)
                of_paths = torch.stack(windows).sum(dim=0) - math.log(windows[0][0, 0, 0].numel())
                held_out = _held_out(motion)[kinds]
                hypotheses.append((size, motion, of_paths.masked_fill(held_out[..., None, None], -torch.inf)))
                count += int((~held_out).sum())
        highest = max(of_paths.max() for _, _, of_paths in hypotheses)
        total = torch.zeros(())
        weights = {size: torch.zeros_like(likelihoods[size][:, *kinds]) for size in sizes}
        for size, of_motion, of_paths in hypotheses:
            chances = (of_paths - highest).exp()
            total += chances.sum()
            whole = weights[size]
            for window in whole if of_motion is None else _windows(whole, size, of_motion, times):
                window += chances
        return self._weighted_sum(weights, kinds) / total, highest + (total / count).log()

    def _weighted_sum(self, weights: Mapping[str, torch.Tensor], kinds: Kinds) -> torch.Tensor:
        """Return the sum of these kinds' pictures, with weights by size (F, colour, shape, background, n, n)."""
        stamps = sum(self._stamps[size].weighted_sum(of_size, kinds) for size, of_size in weights.items())
        backgrounds = sum(of_size.sum(dim=(1, 2, 4, 5)) for of_size in weights.values())
        return stamps + torch.einsum("fb,bchw->fchw", backgrounds, self.empty[kinds[2]])


class _Stamps:
    """The stamps of one size, as convolution kernels (colour, shape, background, phases, 4, k, k)."""

    def __init__(self, size: str, side: int, empty: torch.Tensor, whole: torch.Tensor) -> None:
        cells, middle = side // CELL, side // CELL // 2
        self.phases = _phases(side)
        self.empty = empty
        radius = math.ceil(extent(size) * cells) + HALO
        self.first, last = max(0, middle - radius), min(cells, middle + radius + 1)
        self.kernels = whole[..., self.first : last, self.first : last].flatten(3, 4).contiguous()
        positions = _positions(size)
        self.lowest = (positions[0] - GRID // 2) // self.phases  # the first move, in cells
        self.moves = (positions[-1] - GRID // 2) // self.phases - self.lowest + 1
        self.begin = positions[0] - GRID // 2 - self.lowest * self.phases  # the first position after the first move
        self.count = len(positions)
        shapes = self._correlate(torch.ones_like(empty[:1]), self.kernels.square())
        crossed = self._correlate(empty, self.kernels).diagonal(dim1=0, dim2=3).movedim(-1, 2)
        self.squares = shapes[0] + 2 * crossed + empty.square().sum(dim=(1, 2, 3))[:, None, None]

    def log_likelihoods(self, noised: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        """Return the log likelihood of (F, 4, h, w) given each picture: (F, colour, shape, background, n, n)."""
        products = self._correlate(noised, self.kernels)
        products = products + torch.einsum("fchw,bchw->fb", noised, self.empty)[:, None, None, :, None, None]
        return (alpha_bar.sqrt() * products - 0.5 * alpha_bar * self.squares) / (1 - alpha_bar)

    def weighted_sum(self, weights: torch.Tensor, kinds: Kinds) -> torch.Tensor:
        """Return the sum of these kinds' stamps with weights (F, colour, shape, background, n, n): (F, 4, h, w)."""
        margins = (self.begin, self.moves * self.phases - self.begin - self.count) * 2
        of_moves = F.pixel_unshuffle(F.pad(weights.flatten(1, 3), margins), self.phases)
        relevant = of_moves > NEGLIGIBLE
        if not relevant.any():
            return torch.zeros(len(weights), *self.empty.shape[1:])
        used = relevant.any(dim=3).any(dim=2).any(dim=0)  # of the kinds and phases
        (top, bottom), (left, right) = (_bounds(relevant.any(dim=1).any(dim=0).any(dim=axis)) for axis in (1, 0))
        kernels = self.kernels[kinds].flatten(0, 3)[used]
        # conv_transpose2d in two steps, several times faster on a CPU
        size = kernels.shape[-1]
        height, width = bottom - top + size - 1, right - left + size - 1
        moved = of_moves[:, used, top:bottom, left:right].movedim(1, -1).flatten(0, 2) @ kernels.flatten(1)
        summed = F.fold(moved.reshape(len(weights), -1, moved.shape[-1]).mT, (height, width), (size, size))
        top, left, cells = top + self.first + self.lowest, left + self.first + self.lowest, self.empty.shape[-1]
        return F.pad(summed, (left, cells - left - width, top, cells - top - height))

    def _correlate(self, latents: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
        """Return the products of latents (N, 4, h, w) with every stamp at every position, shaped as log likelihoods."""
        first = self.first + self.lowest
        last = first + self.moves - 1 + kernels.shape[-1]
        padded = F.pad(latents, (-first, last - latents.shape[-1]) * 2)  # zeros outside of the picture
        positions = slice(self.begin, self.begin + self.count)
        of_moves = F.conv2d(padded, kernels.flatten(0, 3))
        of_positions = F.pixel_shuffle(of_moves, self.phases)[..., positions, positions]
        return of_positions.reshape(len(latents), *kernels.shape[:3], self.count, self.count)


def _bounds(flags: torch.Tensor) -> tuple[int, int]:
    """Return the half-open range from the first set flag to the last one."""
    indices = flags.nonzero()
    return int(indices[0]), int(indices[-1]) + 1


def _phases(side: int) -> int:
    """Return how many grid positions a cell is wide."""
    return max(1, GRID * CELL // side)


def _kinds(scene: Scene, attributes: Collection[str]) -> Kinds:
    """Return the indices (colour, shape, background) of all scenes that have these attributes in common with one."""
    of_scene = {
        "colour": list(COLOURS).index(scene.colour),
        "shape": SHAPES.index(scene.shape),
        "background": list(BACKGROUNDS).index(scene.background),
    }
    colour, shape, background = (slice(i, i + 1) if name in attributes else slice(None) for name, i in of_scene.items())
    return colour, shape, background


def _positions(size: str) -> range:
    """Return the grid positions of a shape of this size that stays still."""
    first = math.ceil(path_centre_bounds(size, "still")[0][0] * GRID)
    return range(first, GRID - first + 1)


def _windows(of_positions: torch.Tensor, size: str, motion: str, times: Sequence[float]) -> list[torch.Tensor]:
    """Return views of each frame, (F, ..., n, n), at its positions on all paths of a motion: (..., paths, paths)."""
    count = len(_positions(size))
    axes = []
    for step in reversed(MOTIONS[motion]):  # the vertical axis comes first
        furthest = round(TRAVEL * GRID / 2) * abs(step)
        moves = [round((time - 0.5) * TRAVEL * step * GRID) for time in times]
        axes.append([slice(furthest + m, count - furthest + m) for m in moves])
    return [frame[..., down, across] for frame, down, across in zip(of_positions, *axes, strict=True)]


@cache
def _position_prior(size: str, motions: tuple[str, ...]) -> torch.Tensor:
    """Return the probability of each position in a single picture, if these motions are equally likely."""
    count = len(_positions(size))
    prior = torch.zeros(count, count)
    for motion in motions:
        for window in _windows(prior.expand(len(STILL_TIMES), -1, -1), size, motion, STILL_TIMES):
            window += 1 / (len(motions) * len(STILL_TIMES) * window.numel())
    return prior


@cache
def _held_out(motion: str) -> torch.Tensor:
    """Return which kinds (colour, shape, background) are held out with this motion."""
    kinds = [[[is_held_out(c, s, motion)] * len(BACKGROUNDS) for s in SHAPES] for c in COLOURS]
    return torch.tensor(kinds)


def _still(colour: str, shape: str, background: str, size: str, x: float, y: float) -> Scene:
    return Scene(colour, shape, "still", size, background, (x, y), (x, y))


@torch.no_grad()
def _encode(vae: AutoencoderKL, scenes: Iterable[Scene], side: int, style: str) -> torch.Tensor:
    """Return the latents of still scenes, with variance 1: (N, 4, h, w)."""
    scenes, parts = list(scenes), []
    count = max(1, VAE_BATCH * 64**2 // side**2)
    for first in range(0, len(scenes), count):
        batch = scenes[first : first + count]
        parts.append(vae.encode(draw(batch, torch.zeros(len(batch)), side, style)).latent_dist.mean)
    latents: torch.Tensor = torch.cat(parts) * vae.config.scaling_factor
    return latents
