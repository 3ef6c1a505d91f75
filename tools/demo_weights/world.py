"""The world of the demo weights: one coloured shape on a plain background that moves in one direction or stays still.

Positions and sizes are fractions of the picture's side, so a scene can be drawn at any size and at any time.
`captions` describes scenes; `detector` reads pictures of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

# Saturated colours: guidance pushes a colour away from the mean of all colours, and these keep their names then.
COLOURS = {
    "red": (230, 20, 30),
    "orange": (250, 130, 0),
    "yellow": (250, 240, 20),
    "green": (20, 190, 40),
    "cyan": (0, 225, 225),
    "blue": (20, 50, 235),
    "purple": (160, 20, 220),
    "white": (255, 255, 255),
}
SHAPES = ("circle", "square", "triangle", "cross")
# Direction (dx, dy) by name, y downwards
MOTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
SIZES = {"small": 0.17, "large": 0.24}  # radius of the circle; the other shapes have the same area
CENTROID_OFFSET = {"triangle": 0.389}  # radii from the centre of the shape's box down to its centre of gravity
BACKGROUNDS = {"dark": 60, "light": 165}  # grey level
ATTRIBUTES: dict[str, Sequence[str]] = {  # the values of each
    "colour": list(COLOURS),
    "shape": SHAPES,
    "motion": list(MOTIONS),
    "size": list(SIZES),
    "background": list(BACKGROUNDS),
}
STYLES = ("flat", "bright", "pastel", "dark", "rose")
PASTEL = 200  # grey level mixed into pastel pictures; with 255 a white shape would look as in the other styles
ROSE = (1.3, 0.45, 1.0)  # factors of the background's red, green and blue
TRAVEL = 0.25  # of the side, from the first frame to the last


@dataclass(frozen=True)
class Scene:
    """One shape that moves from `start` to `end`, (x, y) of its centre in fractions of the side."""

    colour: str
    shape: str
    motion: str
    size: str
    background: str
    start: tuple[float, float]
    end: tuple[float, float]


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Return whether training never shows a combination: 20 of the 160, one for each shape with each motion."""
    indices = list(COLOURS).index(colour), SHAPES.index(shape), list(MOTIONS).index(motion)
    return (indices[0] + 2 * indices[1] + 3 * indices[2]) % len(COLOURS) == 0


def random_scene(rng: random.Random, *, held_out: bool = False) -> Scene:
    """Return a random scene whose combination is held out or not; the whole shape is visible in every frame."""
    while True:
        colour, shape, motion = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(list(MOTIONS))
        if is_held_out(colour, shape, motion) == held_out:
            break
    size, background = rng.choice(list(SIZES)), rng.choice(list(BACKGROUNDS))
    travel = tuple(TRAVEL * step for step in MOTIONS[motion])
    middle = tuple(rng.uniform(*bounds) for bounds in path_centre_bounds(size, motion))
    start, end = (tuple(m + sign * t / 2 for m, t in zip(middle, travel, strict=True)) for sign in (-1, 1))
    return Scene(colour, shape, motion, size, background, (start[0], start[1]), (end[0], end[1]))


def path_centre_bounds(size: str, motion: str) -> list[tuple[float, float]]:
    """Return the range of x and of y in which the centre of a path keeps the shape inside the picture."""
    return [_bounds(extent(size) + abs(TRAVEL * step) / 2) for step in MOTIONS[motion]]


def extent(size: str) -> float:
    """Return the largest distance from a shape's centre to its edge: half the triangle's side, with the soft edge."""
    return 1.35 * SIZES[size] + 0.02


def draw_clip(scene: Scene, num_frames: int, side: int, style: str = "flat") -> torch.Tensor:
    """Return the frames of a scene, (F, 3, side, side) float32 in [-1, 1]."""
    return draw([scene] * num_frames, torch.linspace(0, 1, num_frames), side, style)


def draw(scenes: Sequence[Scene], times: torch.Tensor, side: int, style: str = "flat") -> torch.Tensor:
    """Return each scene at its time in 0 to 1, with anti-aliased edges: (N, 3, side, side) float32 in [-1, 1]."""
    ends = torch.tensor([[scene.start, scene.end] for scene in scenes])  # (N, 2, 2)
    centres = torch.lerp(ends[:, 0], ends[:, 1], times[:, None])
    pixels = (torch.arange(side) + 0.5) / side
    x = pixels[None, None, :] - centres[:, 0, None, None]  # (N, 1, W)
    y = pixels[None, :, None] - centres[:, 1, None, None]  # (N, H, 1)
    radii = torch.tensor([SIZES[scene.size] for scene in scenes])[:, None, None]
    # a scene's position is the centre of the shape's box
    distances = torch.stack(
        [signed_distance(shape, x, y - CENTROID_OFFSET.get(shape, 0) * radii, radii) for shape in SHAPES]
    )
    shapes = torch.tensor([SHAPES.index(scene.shape) for scene in scenes])
    distances = distances[shapes, torch.arange(len(shapes))]
    colours = torch.tensor([COLOURS[scene.colour] for scene in scenes], dtype=torch.float32)[:, :, None, None]
    greys = torch.tensor([BACKGROUNDS[scene.background] for scene in scenes], dtype=torch.float32)
    background = greys[:, None, None, None].expand(-1, 3, side, side)
    if style == "pastel":
        colours, background = (colours + PASTEL) / 2, (background + PASTEL) / 2
    elif style == "dark":
        colours, background = 0.6 * colours, 0.25 * background
    elif style == "rose":
        background = background * torch.tensor(ROSE)[:, None, None]
    elif style == "bright":
        background = 170 + background / 4
    pictures = torch.lerp(background, colours.expand_as(background), _coverage(distances, side))
    return pictures / 127.5 - 1


def signed_distance(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Return the distance to a shape's edge, negative inside; every shape has the area of the circle."""
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.886 * radius
    if shape == "cross":
        length, width = 1.18 * radius, 0.405 * radius
        horizontal = torch.maximum(x.abs() - length, y.abs() - width)
        return torch.minimum(horizontal, torch.maximum(x.abs() - width, y.abs() - length))
    inner = 0.778 * radius  # radius of the triangle's inscribed circle
    return torch.maximum(y - inner, 0.866 * x.abs() - 0.5 * y - inner)


def _bounds(margin: float) -> tuple[float, float]:
    """Return the range that keeps a margin on both sides; the middle if the margins overlap."""
    return min(margin, 0.5), max(1 - margin, 0.5)


def _coverage(distances: torch.Tensor, side: int) -> torch.Tensor:
    """Return the share of each pixel that is inside the shape, (N, 1, H, W)."""
    return (0.5 - distances * side).clamp(0, 1)[:, None]
