"""What frames show, computed from the pixels: the shape's colour, form, motion and position, and the style.

The background is the colour of the frames' border; the shape is what differs from it. The colour is found by its hue,
the form by its overlap with the world's shapes of the same position and area, the style by both colours.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from demo_weights.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, STYLES, Scene, draw_clip, signed_distance

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from videokit.video.frames import Frame

MIN_SATURATION = 0.2  # a colour with less counts as white
MIN_CONTRAST = 45  # between the shape and the background: the length of their RGB difference, in levels of 255
MAX_BACKGROUND_CHANGE = 30  # of a frame from the median of the clip, in such levels; the backgrounds differ by 45
MIN_TRAVEL = 0.12  # of the side, from the first frame to the last; a shape that travels less has no direction


@dataclass(frozen=True)
class Detection:
    """What a clip shows; positions in pixels, x to the right and y down."""

    colour: str | None  # None if there is no shape
    shape: str | None
    overlap: float  # intersection over union with the detected shape, mean of the frames
    motion: str | None
    drift: tuple[float, float]  # from the first frame to the last, by a linear fit
    centres: NDArray[np.float64]  # (F, 2), NaN for a frame without a shape
    steady: bool  # whether the background is the same in all frames


def detect(frames: Iterable[Frame]) -> Detection:
    """Return what the frames of a clip, or a single picture, show."""
    clip = np.stack(list(frames)).astype(np.float64)  # (F, H, W, 3)
    masks = np.stack([shape_mask(frame) for frame in clip])
    centres = np.stack([_centre(mask) for mask in masks])
    visible = masks.any(axis=(1, 2))
    drift = _drift(centres)
    backgrounds = np.stack([_background(frame) for frame in clip])
    changes = np.linalg.norm(backgrounds - np.median(backgrounds, axis=0), axis=1)
    steady = bool((changes < MAX_BACKGROUND_CHANGE).all())
    if visible.mean() < 0.8:
        return Detection(None, None, 0.0, None, drift, centres, steady)
    colour = colour_name(clip[masks].mean(axis=0))
    overlaps = np.mean([shape_overlaps(mask) for mask in masks[visible]], axis=0)  # (4,)
    best = int(overlaps.argmax())
    side = min(clip.shape[1:3])
    return Detection(colour, SHAPES[best], float(overlaps[best]), motion_name(drift, side), drift, centres, steady)


def shape_mask(frame: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pixels of (H, W, 3) belong to the shape, after a 3x3 majority filter."""
    difference = np.linalg.norm(frame - _background(frame), axis=2)
    threshold = max(MIN_CONTRAST, 0.35 * np.quantile(difference, 0.985))
    inside = np.pad(difference > threshold, 1)
    return sliding_window_view(inside, (3, 3)).sum(axis=(2, 3)) >= 5  # type: ignore[no-any-return]


def colour_name(rgb: NDArray[np.float64]) -> str:
    """Return the name of the colour with the nearest hue; white if the saturation is low."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(rgb / 255))
    if saturation < MIN_SATURATION:
        return "white"
    hues = {
        name: colorsys.rgb_to_hsv(*(level / 255 for level in c))[0] for name, c in COLOURS.items() if name != "white"
    }
    return min(hues, key=lambda name: min(abs(hue - hues[name]), 1 - abs(hue - hues[name])))


def hues(frames: Iterable[Frame]) -> NDArray[np.float64]:
    """Return the hue of the shape in each frame, unwrapped, in turns; NaN for a frame without a shape."""
    values = []
    for frame in np.stack(list(frames)).astype(np.float64):
        mask = shape_mask(frame)
        values.append(colorsys.rgb_to_hsv(*(frame[mask].mean(axis=0) / 255))[0] if mask.any() else np.nan)
    return np.unwrap(np.array(values), period=1)


def detect_style(frames: Iterable[Frame]) -> str:
    """Return which of STYLES a clip has, by the medians over its frames."""
    clip = np.stack(list(frames)).astype(np.float64)
    edges = np.concatenate([clip[:, :2], clip[:, -2:]], axis=1).mean(axis=1)  # (F, W, 3), of top and bottom
    insides = [frame[~_dilated(~shape_mask(frame))] for frame in clip]
    colours = [np.median(inside, axis=0) for inside in insides if len(inside)]
    if not colours:
        return "flat"
    measured = np.concatenate([np.median(edges, axis=(0, 1)), np.median(colours, axis=0)])
    return min(_style_colours(), key=lambda style: float(np.linalg.norm(measured - style[1])))[0]


@cache
def _style_colours() -> list[tuple[str, NDArray[np.float64]]]:
    """Return every background colour with every shape colour, (6,), by style."""
    colours = []
    for style in STYLES:
        for colour in COLOURS:
            for background in BACKGROUNDS:
                scene = Scene(colour, "square", "still", "large", background, (0.5, 0.5), (0.5, 0.5))
                picture = (draw_clip(scene, 1, 16, style)[0] + 1) * 127.5
                colours.append((style, np.array([*picture[:, 0, 0].tolist(), *picture[:, 8, 8].tolist()])))
    return colours


def _dilated(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask dilated by two pixels."""
    dilated: NDArray[np.bool_] = sliding_window_view(np.pad(mask, 2), (5, 5)).max(axis=(2, 3))
    return dilated


def shape_overlaps(mask: NDArray[np.bool_]) -> list[float]:
    """Return the mask's intersection over union with each of SHAPES, drawn at the mask's position and area."""
    x0, y0 = _centre(mask)
    radius = torch.tensor(np.sqrt(mask.sum() / np.pi))
    x = (torch.arange(mask.shape[1]) - x0)[None, :]
    y = (torch.arange(mask.shape[0]) - y0)[:, None]
    overlaps = []
    for shape in SHAPES:
        form = (signed_distance(shape, x, y, radius) <= 0).numpy()
        overlaps.append(float((form & mask).sum() / (form | mask).sum()))
    return overlaps


def motion_name(drift: tuple[float, float], side: int) -> str | None:
    """Return the direction of a drift, still below half of MIN_TRAVEL, None between half and all of it."""
    dx, dy = drift
    if max(abs(dx), abs(dy)) < side * MIN_TRAVEL / 2:
        return "still"
    if max(abs(dx), abs(dy)) < side * MIN_TRAVEL:
        return None
    step = (int(np.sign(dx)), 0) if abs(dx) >= abs(dy) else (0, int(np.sign(dy)))
    return next(name for name, direction in MOTIONS.items() if direction == step)


def _background(frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median colour (3,) of the border of (H, W, 3)."""
    border: NDArray[np.float64] = np.median(np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]]), axis=0)
    return border


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) if len(rows) else np.array([np.nan, np.nan])


def _drift(centres: NDArray[np.float64]) -> tuple[float, float]:
    """Return how far a line fitted to the centres goes from the first frame to the last."""
    times = np.flatnonzero(~np.isnan(centres[:, 0]))
    if len(times) < 2:
        return 0.0, 0.0
    slopes = np.polyfit(times, centres[times], 1)[0] * (len(centres) - 1)
    return float(slopes[0]), float(slopes[1])
