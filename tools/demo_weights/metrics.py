"""The measures of the demo weights: prompts with seeds, and the share of clips that show what their prompt says."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo_weights.captions import plain_caption
from demo_weights.detector import detect
from demo_weights.world import COLOURS, MOTIONS, SHAPES, is_held_out

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from videokit.video.frames import Frame

    from demo_weights.detector import Detection

MAX_STILL_DRIFT = 3  # pixels that the shape of a still clip may drift


@dataclass(frozen=True)
class Prompt:
    """A prompt of the measure with its seed."""

    colour: str
    shape: str
    motion: str
    seed: int

    @property
    def text(self) -> str:
        """The plainest caption, such as `a red circle moving right`."""
        return plain_caption(self.colour, self.shape, self.motion)

    @property
    def held_out(self) -> bool:
        """Whether training never shows this combination."""
        return is_held_out(self.colour, self.shape, self.motion)


@dataclass(frozen=True)
class Accuracy:
    """The shares of clips that show what their prompts say."""

    count: int
    colour: float
    shape: float
    motion: float
    drift: float  # the largest of the still prompts' clips, in pixels; 0 without such clips
    steady: float  # share of the clips with the same background in all frames

    @property
    def mean(self) -> float:
        """The mean of the shares of colour, shape and motion."""
        return (self.colour + self.shape + self.motion) / 3


def prompts(count: int) -> list[Prompt]:
    """Return prompts; every third has a held-out combination, and n prompts are the first n of any longer list."""
    rng = random.Random("measure")
    combinations = [(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS]
    held_out, trained = (
        iter(_by_motion(rng, [combination for combination in combinations if is_held_out(*combination) == flag]))
        for flag in (True, False)
    )
    chosen = [next(held_out if index % 3 == 0 else trained) for index in range(count)]
    return [Prompt(*combination, seed=1 + index) for index, combination in enumerate(chosen)]


def matches(prompt: Prompt, detection: Detection) -> tuple[bool, bool, bool]:
    """Return whether colour, shape and motion are those of the prompt; a still clip may drift by MAX_STILL_DRIFT."""
    motion = detection.motion == prompt.motion
    if prompt.motion == "still":
        motion = motion and drift(detection) < MAX_STILL_DRIFT
    return detection.colour == prompt.colour, detection.shape == prompt.shape, motion


def drift(detection: Detection) -> float:
    """Return how many pixels a clip's shape drifts, on the axis with the larger drift."""
    return max(map(abs, detection.drift))


def accuracy(prompts: Iterable[Prompt], detections: Iterable[Detection]) -> Accuracy:
    """Return the shares of clips that match their prompts."""
    pairs = list(zip(prompts, detections, strict=True))
    results = np.array([matches(*pair) for pair in pairs], dtype=float).reshape(-1, 3)
    still_drifts = [drift(detection) for prompt, detection in pairs if prompt.motion == "still"]
    colour, shape, motion = results.mean(axis=0).tolist() if pairs else (0.0, 0.0, 0.0)
    steady = sum(detection.steady for _, detection in pairs) / max(1, len(pairs))
    return Accuracy(len(pairs), colour, shape, motion, max(still_drifts, default=0.0), steady)


def colour_share(clips: Iterable[Frame], colour: str) -> float:
    """Return the share of clips whose shape has this colour."""
    counts = Counter(detect(clip).colour for clip in clips)
    return counts[colour] / counts.total()


def monotone_share(values: NDArray[np.float64]) -> float:
    """Return the share of steps that do not go against the direction from the first value to the last."""
    steps = np.diff(values) * np.sign(values[-1] - values[0])
    return float((steps >= 0).mean())


def pad_to_size(clip: Frame, width: int, height: int) -> Frame:
    """Return a square clip, (F, side, side, 3), in the middle of larger frames, padded with its border."""
    extra = height - clip.shape[1], width - clip.shape[2]
    return np.pad(clip, ((0, 0), *((pixels // 2, -(-pixels // 2)) for pixels in extra), (0, 0)), mode="edge")


def add_text(clip: Frame, text: str = "watermark") -> Frame:
    """Return a clip with a text where models trained on WebVid write theirs: 0.577 to 0.726 of the height."""
    _, height, width, _ = clip.shape
    layer = Image.new("L", (width, height))
    font = ImageFont.load_default(0.13 * height)
    ImageDraw.Draw(layer).text((width / 2, 0.65 * height), text, fill=150, font=font, anchor="mm")
    opacity = np.asarray(layer, dtype=np.float64)[..., None] / 255
    marked: Frame = (clip + opacity * (255.0 - clip)).round().astype(np.uint8)
    return marked


def residual_energy(clean: Frame, marked: Frame, result: Frame) -> float:
    """Return the squared error of `result` against `clean`, divided by that of `marked`."""
    before, after = (np.square(clip.astype(np.float64) - clean).sum() for clip in (marked, result))
    return float(after / before)


def _by_motion(rng: random.Random, combinations: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return the combinations shuffled, with the motions alternating."""
    mixed = rng.sample(combinations, len(combinations))
    by_motion = [[combination for combination in mixed if combination[2] == motion] for motion in MOTIONS]
    return [combination for turn in zip(*by_motion, strict=False) for combination in turn]
