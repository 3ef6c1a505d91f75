"""The three models' own pipelines on their small weights: inputs in, frames out. For the measure, the gallery, tests.

Nothing of a model is repeated here: inputs, checks and defaults are theirs, but for the sizes of `ZEROSCOPE` and
`SD_ANIMATION`, which the small weights know.
"""

from __future__ import annotations

import os
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from animate_diff.inputs import CHECKPOINTS
from animate_diff.inputs import Inputs as AnimateDiffInputs
from animate_diff.pipeline import Pipeline as AnimateDiff
from animate_diff.weights import FILES as ANIMATE_DIFF_FILES
from sd_animation.inputs import Inputs as SdAnimationInputs
from sd_animation.pipeline import Pipeline as SdAnimation
from sd_animation.weights import FILES as SD_ANIMATION_FILES
from tree import ROOT
from videokit.runtime import Stages, pick_device
from videokit.video.frame_store import FrameStore
from videokit.weights.store import WeightStore
from zeroscope.inputs import Inputs as ZeroscopeInputs
from zeroscope.pipeline import Pipeline as Zeroscope
from zeroscope.weights import FILES as ZEROSCOPE_FILES

from demo_weights.world import LOOKS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from videokit.video.frames import Frame
    from videokit.weights.store import WeightFile


ZEROSCOPE: dict[str, Any] = {"width": 256, "height": 256, "num_frames": 16}
SD_ANIMATION: dict[str, Any] = {"width": 128, "height": 128}
# The look that each of animate-diff's checkpoints and each of zeroscope's models was trained on
LOOK_OF = dict(zip(CHECKPOINTS, LOOKS, strict=True)) | {
    "xl": "flat",
    "576w": "bright",
    "potat1": "dark",
    "animov-512x": "pastel",
}


class Pipelines:
    """The models, each loaded when it is first asked; `weights` is demo, or a directory with a folder for each."""

    def __init__(self, weights: str = "demo") -> None:
        self.weights = weights
        self.device = pick_device()

    def animate_diff(self, prompt: str, **inputs: Any) -> Frame:
        """Return a clip of animate-diff, (F, H, W, 3)."""
        asked = AnimateDiffInputs(prompt, **inputs)
        asked.check()
        return _clip(self.animate_diff_pipeline.generate(asked, asked.resolved_seed(), self._stages))

    def zeroscope(self, prompt: str, **inputs: Any) -> Frame:
        """Return a clip of zeroscope, (F, H, W, 3), of the smallest size and 16 frames where nothing else is asked."""
        asked = ZeroscopeInputs(prompt, **(ZEROSCOPE | inputs))
        asked.check(self.zeroscope_pipeline.most_frames)
        (frames,) = self.zeroscope_pipeline.generate(asked, asked.resolved_seed(), self._stages)
        return _clip(frames)

    def sd_animation(self, prompt_start: str, prompt_end: str, **inputs: Any) -> Frame:
        """Return an animation of sd-animation, (F, H, W, 3), at the small weights' size where no other is asked."""
        asked = SdAnimationInputs(prompt_start, prompt_end, **(SD_ANIMATION | inputs))
        asked.check()
        with tempfile.TemporaryDirectory() as directory, FrameStore(Path(directory)) as pictures:
            pipeline = self.sd_animation_pipeline
            latents = pipeline.animate(asked, asked.resolved_seed(), self._stages, pictures)
            return _clip(pipeline.fill_in(asked, latents, pictures))

    @cached_property
    def animate_diff_pipeline(self) -> AnimateDiff:
        """The pipeline itself, for what is not asked by inputs."""
        return AnimateDiff(self._store("animate-diff", ANIMATE_DIFF_FILES), self.device)

    @cached_property
    def zeroscope_pipeline(self) -> Zeroscope:
        """The pipeline itself, for what is not asked by inputs."""
        return Zeroscope(self._store("zeroscope", ZEROSCOPE_FILES), self.device)

    @cached_property
    def sd_animation_pipeline(self) -> SdAnimation:
        """The pipeline itself, for what is not asked by inputs."""
        return SdAnimation(self._store("sd-animation", SD_ANIMATION_FILES), self.device)

    @property
    def _stages(self) -> Stages:
        return Stages(self.device)

    def _store(self, model: str, files: Iterable[WeightFile]) -> WeightStore:
        if self.weights == "demo":
            return WeightStore.from_environment(files, model, ROOT / model, {**os.environ, "WEIGHTS": "demo"})
        return WeightStore(files, directories=[Path(self.weights) / model], cache=None)


def _clip(frames: Iterable[Frame]) -> Frame:
    return np.stack(list(frames))
