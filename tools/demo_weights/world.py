"""The world of the small weights: one coloured shape on a plain background, that moves in a direction or stands still.

Places and sizes are fractions of the picture's side, so one scene can be drawn at any size and any moment. What a
scene is called is in `captions`, what is seen in pictures of it in `oracle`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

# Saturated, so that guidance, which pushes a colour away from the mean of all, leaves it what it is.
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
# By name, dx and dy per side, y downwards
MOTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
SIZES = {"small": 0.17, "large": 0.24}  # radius of the circle; the other shapes have its area
LOWER = {"triangle": 0.389}  # radii from the middle of the shape's box down to its centre of gravity
BACKGROUNDS = {"dark": 60, "light": 165}  # the grey's level
LOOKS = ("flat", "bright", "pastel", "dark", "rose")
PASTEL = 200  # the grey that pastel colours are half of: not white, or white shapes would look as in other looks
ROSE = (1.3, 0.45, 1.0)  # times the grey of a background
TRAVEL = 0.25  # of the side, from the first frame to the last


@dataclass(frozen=True)
class Scene:
    """One shape and its way from `start` to `end`, (x, y) of its centre in fractions of the side."""

    colour: str
    shape: str
    motion: str
    size: str
    background: str
    start: tuple[float, float]
    end: tuple[float, float]


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Tell whether a combination is kept from training: 20 of the 160, one for each shape with each motion."""
    numbers = list(COLOURS).index(colour), SHAPES.index(shape), list(MOTIONS).index(motion)
    return (numbers[0] + 2 * numbers[1] + 3 * numbers[2]) % len(COLOURS) == 0


def random_scene(draw: random.Random, *, held_out: bool = False) -> Scene:
    """Draw a scene whose combination is held out or not, as asked; the shape is whole in all of its frames."""
    while True:
        colour, shape, motion = draw.choice(list(COLOURS)), draw.choice(SHAPES), draw.choice(list(MOTIONS))
        if is_held_out(colour, shape, motion) == held_out:
            break
    size, background = draw.choice(list(SIZES)), draw.choice(list(BACKGROUNDS))
    way = tuple(TRAVEL * step for step in MOTIONS[motion])
    middle = tuple(draw.uniform(*bounds) for bounds in middles(size, motion))
    start, end = (tuple(m + sign * w / 2 for m, w in zip(middle, way, strict=True)) for sign in (-1, 1))
    return Scene(colour, shape, motion, size, background, (start[0], start[1]), (end[0], end[1]))


def middles(size: str, motion: str) -> list[tuple[float, float]]:
    """Return the bounds of the middle of a scene's way, across and down, between which all of it is in the picture."""
    return [_between(reach(size) + abs(TRAVEL * step) / 2) for step in MOTIONS[motion]]


def reach(size: str) -> float:
    """Return how far from its middle a shape may be seen: half the triangle's side, the widest, and its smooth edge."""
    return 1.35 * SIZES[size] + 0.02


def draw_clip(scene: Scene, num_frames: int, side: int, look: str = "flat") -> torch.Tensor:
    """Draw the frames of a scene, (F, 3, side, side) float32 in [-1, 1]."""
    return draw([scene] * num_frames, torch.linspace(0, 1, num_frames), side, look)


def draw(scenes: Sequence[Scene], times: torch.Tensor, side: int, look: str = "flat") -> torch.Tensor:
    """Draw each scene at its time, 0 to 1: (N, 3, side, side) float32 in [-1, 1], with smooth edges."""
    ends = torch.tensor([[scene.start, scene.end] for scene in scenes])  # (N, 2, 2)
    centres = torch.lerp(ends[:, 0], ends[:, 1], times[:, None])
    pixels = (torch.arange(side) + 0.5) / side
    x = pixels[None, None, :] - centres[:, 0, None, None]  # (N, 1, W)
    y = pixels[None, :, None] - centres[:, 1, None, None]  # (N, H, 1)
    radii = torch.tensor([SIZES[scene.size] for scene in scenes])[:, None, None]
    # its box's middle is where a shape is
    distances = torch.stack([distance(shape, x, y - LOWER.get(shape, 0) * radii, radii) for shape in SHAPES])
    kinds = torch.tensor([SHAPES.index(scene.shape) for scene in scenes])
    distances = distances[kinds, torch.arange(len(kinds))]
    colours = torch.tensor([COLOURS[scene.colour] for scene in scenes], dtype=torch.float32)[:, :, None, None]
    greys = torch.tensor([BACKGROUNDS[scene.background] for scene in scenes], dtype=torch.float32)
    background = greys[:, None, None, None].expand(-1, 3, side, side)
    if look == "pastel":
        colours, background = (colours + PASTEL) / 2, (background + PASTEL) / 2
    elif look == "dark":
        colours, background = 0.6 * colours, 0.25 * background
    elif look == "rose":
        background = background * torch.tensor(ROSE)[:, None, None]
    elif look == "bright":
        background = 170 + background / 4
    pictures = torch.lerp(background, colours.expand_as(background), _covered(distances, side))
    return pictures / 127.5 - 1


def distance(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Return the signed distance to a shape's edge, negative inside; every shape has the area of the circle."""
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.886 * radius
    if shape == "cross":
        length, width = 1.18 * radius, 0.405 * radius
        across = torch.maximum(x.abs() - length, y.abs() - width)
        return torch.minimum(across, torch.maximum(x.abs() - width, y.abs() - length))
    inner = 0.778 * radius  # of the triangle that stands on a side; its tip is twice as far
    return torch.maximum(y - inner, 0.866 * x.abs() - 0.5 * y - inner)


def _between(margin: float) -> tuple[float, float]:
    """The bounds of what keeps a margin on both sides; the middle where there is no room."""
    return min(margin, 0.5), max(1 - margin, 0.5)


def _covered(distances: torch.Tensor, side: int) -> torch.Tensor:
    """How much of each pixel lies inside, (N, 1, H, W)."""
    return (0.5 - distances * side).clamp(0, 1)[:, None]
