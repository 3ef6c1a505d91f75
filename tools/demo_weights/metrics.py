"""What is asked of the small weights and how answers are counted: prompts by a seed, and shares of right answers.

The benchmark prints them, and the tests hold them with margins.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo_weights.captions import plain_caption
from demo_weights.detector import look_at
from demo_weights.world import COLOURS, MOTIONS, SHAPES, is_held_out

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from videokit.video.frames import Frame

    from demo_weights.detector import Seen

STILL = 3  # pixels that a clip of something still may drift


@dataclass(frozen=True)
class Asked:
    """One prompt of the measure, and the seed that it is sampled with."""

    colour: str
    shape: str
    motion: str
    seed: int

    @property
    def prompt(self) -> str:
        """The plainest caption, such as `a red circle moving right`."""
        return plain_caption(self.colour, self.shape, self.motion)

    @property
    def held_out(self) -> bool:
        """Whether nothing like it was trained on."""
        return is_held_out(self.colour, self.shape, self.motion)


@dataclass(frozen=True)
class Shares:
    """How many of some prompts' clips show what was asked for."""

    count: int
    colour: float
    shape: float
    motion: float
    drift: float  # the largest of the still prompts' clips, in pixels; 0 where there are none
    steady: float  # of the clips: the background is the same in all frames

    @property
    def mean(self) -> float:
        """The mean of the three shares."""
        return (self.colour + self.shape + self.motion) / 3


def prompts(count: int) -> list[Asked]:
    """Return prompts of which every third is of a held-out combination; fewer are the first of more."""
    draw = random.Random("measure")
    every = [(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS]
    held_out, known = (
        iter(_by_motion(draw, [combination for combination in every if is_held_out(*combination) == held]))
        for held in (True, False)
    )
    asked = [next(held_out if index % 3 == 0 else known) for index in range(count)]
    return [Asked(*combination, seed=1 + index) for index, combination in enumerate(asked)]


def right(asked: Asked, seen: Seen) -> tuple[bool, bool, bool]:
    """Tell whether colour, shape and motion are those asked for; what is to be still may drift under STILL pixels."""
    moves = seen.motion == asked.motion
    if asked.motion == "still":
        moves = moves and drift(seen) < STILL
    return seen.colour == asked.colour, seen.shape == asked.shape, moves


def drift(seen: Seen) -> float:
    """Return how many pixels a clip's shape drifts on the axis on which it drifts more."""
    return max(map(abs, seen.drift))


def shares(asked: Iterable[Asked], seen: Iterable[Seen]) -> Shares:
    """Count the right answers."""
    pairs = list(zip(asked, seen, strict=True))
    verdicts = np.array([right(*pair) for pair in pairs], dtype=float).reshape(-1, 3)
    still = [drift(found) for wanted, found in pairs if wanted.motion == "still"]
    colour, shape, motion = verdicts.mean(axis=0).tolist() if pairs else (0.0, 0.0, 0.0)
    steady = sum(found.steady for _, found in pairs) / max(1, len(pairs))
    return Shares(len(pairs), colour, shape, motion, max(still, default=0.0), steady)


def colour_share(clips: Iterable[Frame], colour: str) -> float:
    """Return the share of clips whose shape has a colour."""
    found = Counter(look_at(clip).colour for clip in clips)
    return found[colour] / found.total()


def monotone_share(values: NDArray[np.float64]) -> float:
    """Return the share of steps that do not go against the way from the first value to the last."""
    steps = np.diff(values) * np.sign(values[-1] - values[0])
    return float((steps >= 0).mean())


def framed(clip: Frame, width: int, height: int) -> Frame:
    """Put a clip of squares, (F, side, side, 3), in the middle of larger frames, its background all about it."""
    extra = height - clip.shape[1], width - clip.shape[2]
    return np.pad(clip, ((0, 0), *((pixels // 2, -(-pixels // 2)) for pixels in extra), (0, 0)), mode="edge")


def with_text(clip: Frame, text: str = "watermark") -> Frame:
    """Write a text over a clip where models trained on WebVid write theirs: 0.577 to 0.726 of the height."""
    _, height, width, _ = clip.shape
    layer = Image.new("L", (width, height))
    font = ImageFont.load_default(0.13 * height)
    ImageDraw.Draw(layer).text((width / 2, 0.65 * height), text, fill=150, font=font, anchor="mm")
    cover = np.asarray(layer, dtype=np.float64)[..., None] / 255
    written: Frame = (clip + cover * (255.0 - clip)).round().astype(np.uint8)
    return written


def energy_left(clean: Frame, marked: Frame, result: Frame) -> float:
    """Return how much of what `marked` has beside `clean` is left in `result`, as a share of its squares."""
    before, after = (np.square(clip.astype(np.float64) - clean).sum() for clip in (marked, result))
    return float(after / before)


def _by_motion(draw: random.Random, combinations: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Shuffle combinations, and let the motions take turns."""
    mixed = draw.sample(combinations, len(combinations))
    by_motion = [[combination for combination in mixed if combination[2] == motion] for motion in MOTIONS]
    return [combination for turn in zip(*by_motion, strict=False) for combination in turn]
