"""What one prediction asks for, in the field's words, and every bound that the documented schema lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from videokit.checks import frame_count, in_range, multiple_of, one_of
from videokit.errors import refuse
from videokit.seeds import MAX_SEED, resolve_seed, seed_fault

from zeroscope.weights import MODELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_FPS = 120  # the fastest that screens in use show
MAX_BATCH = 100  # all files lie on the disk until the last is made


@dataclass(frozen=True)
class Inputs:
    """The inputs of one prediction; `init_weight` says how much of `init_video` stays, `seed` None is random."""

    prompt: str
    negative_prompt: str = ""
    init_video: Path | None = None
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
        """Whether anything of `init_video` is to be seen."""
        return self.init_video is not None and self.init_weight > 0

    def check(self, most_frames: Callable[[Inputs], int]) -> None:
        """Raise InvalidInput with one line for each input that is not allowed.

        `most_frames` tells how many frames of this size the device holds; it is asked where the size itself is right.
        """
        sides = [multiple_of(name, getattr(self, name), 8, at_least=256) for name in ("width", "height")]
        faults = [
            in_range("init_weight", self.init_weight, 0, 1),
            in_range("num_inference_steps", self.num_inference_steps, 1, 500),
            in_range("guidance_scale", self.guidance_scale, 1, 100),
            in_range("fps", self.fps, 1, MAX_FPS),
            one_of("model", self.model, MODELS),
            self._seeds_fault(),
            self._video_fault(),
        ]
        refuse(*sides, *faults, self._frames_fault(most_frames if not any(sides) else None))

    def resolved_seed(self) -> int:
        """Return the first video's seed; a new random one at every call where the input leaves it open."""
        return min(resolve_seed(self.seed), MAX_SEED + 1 - self.batch_size)

    def _seeds_fault(self) -> str | None:
        fault = in_range("batch_size", self.batch_size, 1, MAX_BATCH) or seed_fault(self.seed)
        if fault is None and self.seed is not None and self.seed + self.batch_size - 1 > MAX_SEED:
            return (
                f"seed={self.seed} with batch_size={self.batch_size} ends with a seed over {MAX_SEED}; "
                f"try seed={MAX_SEED + 1 - self.batch_size}"
            )
        return fault

    def _video_fault(self) -> str | None:
        # Cog fetches addresses and data; any other text it hands on as if it were the path of a file
        if self.init_video is None or self.init_video.is_file():
            return None
        return f"init_video={self.init_video} is neither an http(s):// address nor a data: URI"

    def _frames_fault(self, most_frames: Callable[[Inputs], int] | None) -> str | None:
        if most_frames is None:
            return in_range("num_frames", self.num_frames, 1)
        most = most_frames(self)
        if most < 1:
            return f"width={self.width} and height={self.height}: the memory here does not hold one frame; try less"
        why = f"as many of {self.width}x{self.height} as the memory here holds"
        return frame_count("num_frames", self.num_frames, most, why)
