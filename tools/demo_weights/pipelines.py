"""The three models' own pipelines on the demo weights: inputs in, frames out. For measures, gallery and tests.

Inputs, checks and defaults are the models' own, except for the sizes in `ZEROSCOPE` and `SD_ANIMATION`.
"""

from __future__ import annotations

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

from demo_weights.world import STYLES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from videokit.video.frames import Frame
    from videokit.weights.table import WeightFile


ZEROSCOPE: dict[str, Any] = {"width": 256, "height": 256, "num_frames": 16}
SD_ANIMATION: dict[str, Any] = {"width": 128, "height": 128}
# The style of each animate-diff checkpoint and each zeroscope model
STYLE_OF = dict(zip(CHECKPOINTS, STYLES, strict=True)) | {
    "xl": "flat",
    "576w": "bright",
    "potat1": "dark",
    "animov-512x": "pastel",
}


class Pipelines:
    """The models, each loaded on first use; `weights` is demo, or a directory with a folder for each model."""

    def __init__(self, weights: str = "demo") -> None:
        self.weights = weights
        self.device = pick_device()

    def animate_diff(self, prompt: str, **inputs: Any) -> Frame:
        """Return a clip of animate-diff, (F, H, W, 3)."""
        checked = AnimateDiffInputs(prompt, **inputs)
        checked.check()
        frames = self.animate_diff_pipeline.generate(checked, checked.resolved_seed(), Stages(self.device))
        return np.stack(list(frames))

    def zeroscope(self, prompt: str, **inputs: Any) -> Frame:
        """Return a clip of zeroscope, (F, H, W, 3); 16 frames of the smallest size by default."""
        checked = ZeroscopeInputs(prompt, **(ZEROSCOPE | inputs))
        checked.check(self.zeroscope_pipeline.max_frames)
        (frames,) = self.zeroscope_pipeline.generate(checked, checked.resolved_seed(), Stages(self.device))
        return np.stack(list(frames))

    def sd_animation(self, prompt_start: str, prompt_end: str, **inputs: Any) -> Frame:
        """Return an animation of sd-animation, (F, H, W, 3); 128x128 by default."""
        checked = SdAnimationInputs(prompt_start, prompt_end, **(SD_ANIMATION | inputs))
        checked.check()
        with tempfile.TemporaryDirectory() as directory, FrameStore(Path(directory)) as pictures:
            pipeline = self.sd_animation_pipeline
            latents = pipeline.animate(checked, checked.resolved_seed(), Stages(self.device), pictures)
            return np.stack(list(pipeline.interpolate(checked, latents, pictures)))

    @cached_property
    def animate_diff_pipeline(self) -> AnimateDiff:
        """The model's pipeline, for access to its networks."""
        return AnimateDiff(self._store("animate-diff", ANIMATE_DIFF_FILES), self.device)

    @cached_property
    def zeroscope_pipeline(self) -> Zeroscope:
        """The model's pipeline, for access to its networks."""
        return Zeroscope(self._store("zeroscope", ZEROSCOPE_FILES), self.device)

    @cached_property
    def sd_animation_pipeline(self) -> SdAnimation:
        """The model's pipeline, for access to its networks."""
        return SdAnimation(self._store("sd-animation", SD_ANIMATION_FILES), self.device)

    def _store(self, model: str, files: Iterable[WeightFile]) -> WeightStore:
        directory = ROOT / model / "demo-weights" if self.weights == "demo" else Path(self.weights) / model
        return WeightStore(files, directories=[directory], cache=None)
