"""What is seen in frames, and from the frames alone: the shape's colour, its form, where it goes, and its place.

The background is taken from the frames' border, the shape is what differs from it. The colour is told by its hue, the
form by which of the world's shapes of the same place and area covers it best, the look by the colours of both.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from demo_weights.world import BACKGROUNDS, COLOURS, LOOKS, MOTIONS, SHAPES, Scene, distance, draw_clip

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from videokit.video.frames import Frame

GREY = 0.2  # saturation under which a colour has no hue
DIFFERENT = 45  # levels (length of the RGB difference) by which a shape differs from the background at least
STEADY = 30  # such levels that a frame's background may lie beside that of most frames: none are nearer than 45
MOVING = 0.12  # of the side, from the first frame to the last: less is no direction


@dataclass(frozen=True)
class Seen:
    """What a clip shows; positions in pixels, x to the right and y down."""

    colour: str | None  # None where there is no shape at all
    shape: str | None
    overlap: float  # of the shape with the one it is taken for, intersection over union, the mean of the frames
    motion: str | None
    drift: tuple[float, float]  # from the first frame to the last, by a line through all
    centres: NDArray[np.float64]  # (F, 2), NaN where a frame shows nothing
    steady: bool  # whether the background is the same in all frames


def look_at(frames: Iterable[Frame]) -> Seen:
    """Say what a clip's frames, or a single picture, show."""
    clip = np.stack(list(frames)).astype(np.float64)  # (F, H, W, 3)
    masks = np.stack([shape_mask(frame) for frame in clip])
    centres = np.stack([_centre(mask) for mask in masks])
    shown = masks.any(axis=(1, 2))
    drift = _drift(centres)
    backgrounds = np.stack([_background(frame) for frame in clip])
    beside = np.linalg.norm(backgrounds - np.median(backgrounds, axis=0), axis=1)
    steady = bool((beside < STEADY).all())
    if shown.mean() < 0.8:
        return Seen(None, None, 0.0, None, drift, centres, steady)
    colour = colour_name(clip[masks].mean(axis=0))
    overlaps = np.mean([form_overlaps(mask) for mask in masks[shown]], axis=0)  # (4,)
    best = int(overlaps.argmax())
    side = min(clip.shape[1:3])
    return Seen(colour, SHAPES[best], float(overlaps[best]), motion_name(drift, side), drift, centres, steady)


def shape_mask(frame: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pixels of (H, W, 3) are the shape: nearer to its colour than to the border's, as most around are."""
    differs = np.linalg.norm(frame - _background(frame), axis=2)
    threshold = max(DIFFERENT, 0.35 * np.quantile(differs, 0.985))
    inside = np.pad(differs > threshold, 1)
    return sliding_window_view(inside, (3, 3)).sum(axis=(2, 3)) >= 5  # type: ignore[no-any-return]


def colour_name(rgb: NDArray[np.float64]) -> str:
    """Return the name of the colour whose hue is nearest; white for one that has next to none."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(rgb / 255))
    if saturation < GREY:
        return "white"
    hues = {
        name: colorsys.rgb_to_hsv(*(level / 255 for level in c))[0] for name, c in COLOURS.items() if name != "white"
    }
    return min(hues, key=lambda name: min(abs(hue - hues[name]), 1 - abs(hue - hues[name])))


def hues(frames: Iterable[Frame]) -> NDArray[np.float64]:
    """Return the hue of the shape in each frame, in turns from the first frame's on, without jumps; NaN for none."""
    found = []
    for frame in np.stack(list(frames)).astype(np.float64):
        mask = shape_mask(frame)
        found.append(colorsys.rgb_to_hsv(*(frame[mask].mean(axis=0) / 255))[0] if mask.any() else np.nan)
    return np.unwrap(np.array(found), period=1)


def look_name(frames: Iterable[Frame]) -> str:
    """Return which of LOOKS a clip's frames have, by the medians over them."""
    clip = np.stack(list(frames)).astype(np.float64)
    edges = np.concatenate([clip[:, :2], clip[:, -2:]], axis=1).mean(axis=1)  # (F, W, 3), of top and bottom
    insides = [frame[~_grown(~shape_mask(frame))] for frame in clip]
    colours = [np.median(inside, axis=0) for inside in insides if len(inside)]
    if not colours:
        return "flat"
    seen = np.concatenate([np.median(edges, axis=(0, 1)), np.median(colours, axis=0)])
    return min(_looks(), key=lambda known: float(np.linalg.norm(seen - known[1])))[0]


@cache
def _looks() -> list[tuple[str, NDArray[np.float64]]]:
    """The background's and the shape's colours in each look."""
    known = []
    for look in LOOKS:
        for colour in COLOURS:
            for background in BACKGROUNDS:
                scene = Scene(colour, "square", "still", "large", background, (0.5, 0.5), (0.5, 0.5))
                picture = (draw_clip(scene, 1, 16, look)[0] + 1) * 127.5
                known.append((look, np.array([*picture[:, 0, 0].tolist(), *picture[:, 8, 8].tolist()])))
    return known


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask grown by two pixels to all sides."""
    grown: NDArray[np.bool_] = sliding_window_view(np.pad(mask, 2), (5, 5)).max(axis=(2, 3))
    return grown


def form_overlaps(mask: NDArray[np.bool_]) -> list[float]:
    """Return for each of SHAPES the intersection over union of the mask with it, at the mask's place and area."""
    x0, y0 = _centre(mask)
    radius = torch.tensor(np.sqrt(mask.sum() / np.pi))
    x = (torch.arange(mask.shape[1]) - x0)[None, :]
    y = (torch.arange(mask.shape[0]) - y0)[:, None]
    overlaps = []
    for shape in SHAPES:
        form = (distance(shape, x, y, radius) <= 0).numpy()
        overlaps.append(float((form & mask).sum() / (form | mask).sum()))
    return overlaps


def motion_name(drift: tuple[float, float], side: int) -> str | None:
    """Return the direction of a drift: still for next to none, None for one between still and a direction."""
    dx, dy = drift
    if max(abs(dx), abs(dy)) < side * MOVING / 2:
        return "still"
    if max(abs(dx), abs(dy)) < side * MOVING:
        return None
    across = abs(dx) >= abs(dy)
    step = (int(np.sign(dx)), 0) if across else (0, int(np.sign(dy)))
    return next(name for name, direction in MOTIONS.items() if direction == step)


def _background(frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the colour (3,) of the border of (H, W, 3), channel by channel that of most of it."""
    border: NDArray[np.float64] = np.median(np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]]), axis=0)
    return border


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) if len(rows) else np.array([np.nan, np.nan])


def _drift(centres: NDArray[np.float64]) -> tuple[float, float]:
    """How far a line through the centres goes from the first frame to the last."""
    times = np.flatnonzero(~np.isnan(centres[:, 0]))
    if len(times) < 2:
        return 0.0, 0.0
    slopes = np.polyfit(times, centres[times], 1)[0] * (len(centres) - 1)
    return float(slopes[0]), float(slopes[1])
