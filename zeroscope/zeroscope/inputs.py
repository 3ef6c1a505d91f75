"""The inputs of one prediction under diffusers' names, and the bounds that the documented schema lacks."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from videokit.checks import check_choice, check_count, check_multiple, check_range, check_text, shown
from videokit.errors import raise_faults
from videokit.seeds import MAX_SEED, check_seed, resolve_seed

from zeroscope.weights import MODELS

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FPS = 120  # the refresh rate of fast screens
MAX_BATCH = 100  # all files are on disk until the last is written


@dataclass(frozen=True)
class Inputs:
    """The inputs of one prediction; `init_weight` is the share of `init_video` that is kept, `seed` None is random."""

    prompt: str
    negative_prompt: str = ""
    init_video: Path | str | None = None  # a path if Cog has fetched it, the text of the request otherwise
    init_weight: float = 0.5
    num_frames: int = 24
    num_inference_steps: int = 50
    width: int = 576
    height: int = 320
    guidance_scale: float = 7.5
    fps: int = 8
    model: str = MODELS[0]
    batch_size: int = 1
    remove_watermark: bool = False
    seed: int | None = None

    @property
    def starts_from_video(self) -> bool:
        """Whether `init_video` affects the result."""
        return self.init_video is not None and self.init_weight > 0

    def check(self, max_frames: Callable[[Inputs], int]) -> None:
        """Raise InvalidInput with one line for each invalid input.

        `max_frames` returns how many frames of a valid size fit into the device's memory.
        """
        texts = [check_text(name, getattr(self, name)) for name in ("prompt", "negative_prompt")]
        sides = [check_multiple(name, getattr(self, name), 8, minimum=256) for name in ("width", "height")]
        faults = [
            check_range("init_weight", self.init_weight, 0, 1),
            check_count("num_inference_steps", self.num_inference_steps, 1, 500),
            check_range("guidance_scale", self.guidance_scale, 1, 100),
            check_count("fps", self.fps, 1, MAX_FPS),
            check_choice("model", self.model, MODELS),
            self._check_seeds(),
            self._check_video(),
        ]
        raise_faults(*texts, *sides, *faults, self._check_frames(max_frames if not any(sides) else None))

    def resolved_seed(self) -> int:
        """Return the first video's seed; if the input requests a random one, each call returns another."""
        return min(resolve_seed(self.seed), MAX_SEED + 1 - self.batch_size)

    def _check_seeds(self) -> str | None:
        fault = check_count("batch_size", self.batch_size, 1, MAX_BATCH) or check_seed(self.seed)
        if fault is None and self.seed is not None and self.seed + self.batch_size - 1 > MAX_SEED:
            return (
                f"seed={self.seed} with batch_size={self.batch_size} ends with a seed over {MAX_SEED}; "
                f"try seed={MAX_SEED + 1 - self.batch_size}"
            )
        return fault

    def _check_video(self) -> str | None:
        # Cog fetches URLs and data URIs into its temporary directory, and passes any other text on unchanged. As a path
        # it would give a caller the files of this machine, so it is not even looked for.
        video, directory = self.init_video, Path(tempfile.gettempdir())
        if video is None or (isinstance(video, Path) and video.parent == directory):
            return None
        return f"init_video={shown(video)} is not an http(s):// URL or a data: URI; give one of these"

    def _check_frames(self, max_frames: Callable[[Inputs], int] | None) -> str | None:
        if max_frames is None:
            return check_count("num_frames", self.num_frames, 1)
        maximum = max_frames(self)
        if maximum < 1:
            return f"width={self.width} and height={self.height}: one frame does not fit into memory; try smaller ones"
        fault = check_count("num_frames", self.num_frames, 1, maximum)
        return fault and f"{fault} (the memory allows {maximum} frames of {self.width}x{self.height})"
