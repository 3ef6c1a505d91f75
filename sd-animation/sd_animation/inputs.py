"""What one prediction asks for, in the field's words, every bound of it, and the counts that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from videokit.checks import in_range, one_of
from videokit.errors import refuse
from videokit.seeds import resolve_seed, seed_fault

from sd_animation.prompt_walk import segment_faults, split_prompts

WIDTHS = (128, 256, 512, 768, 1024)
HEIGHTS = (128, 256, 512, 768)
FORMATS = ("gif", "mp4")


@dataclass(frozen=True)
class Inputs:
    """The inputs of one animation; `num_animation_frames` counts for each part of the path, `seed` None is random."""

    prompt_start: str
    prompt_end: str
    width: int = 512
    height: int = 512
    num_animation_frames: int = 10
    num_interpolation_steps: int = 5
    num_inference_steps: int = 50
    prompt_strength: float = 0.8
    guidance_scale: float = 7.5
    fps: int = 20
    ping_pong: bool = False
    film_interpolation: bool = True
    intermediate_output: bool = False
    output_format: str = "gif"
    seed: int | None = None

    @property
    def prompts(self) -> list[str]:
        """The prompts p0 to pS that the path leads through."""
        return [self.prompt_start, *split_prompts(self.prompt_end)]

    @property
    def num_path_frames(self) -> int:
        """N, the frames that are denoised: `num_animation_frames` for each of the path's S parts."""
        return (len(self.prompts) - 1) * self.num_animation_frames

    @property
    def num_frames(self) -> int:
        """F, the pictures of the file: with in-betweens, and with the way back where it is asked for."""
        there = (self.num_path_frames - 1) * self.num_interpolation_steps + 1
        return 2 * there - 2 if self.ping_pong else there

    @property
    def num_shared_steps(self) -> int:
        """k, the first steps, which all frames have in common."""
        return round(self.num_inference_steps * (1 - self.prompt_strength))

    def check(self) -> None:
        """Raise InvalidInput with one line for each input that is not allowed."""
        refuse(
            *segment_faults(self.prompt_end),
            one_of("width", self.width, WIDTHS),
            one_of("height", self.height, HEIGHTS),
            in_range("num_inference_steps", self.num_inference_steps, 1, 500),
            in_range("prompt_strength", self.prompt_strength, 0, 1),
            in_range("num_animation_frames", self.num_animation_frames, 2, 50),
            in_range("num_interpolation_steps", self.num_interpolation_steps, 1, 50),
            in_range("guidance_scale", self.guidance_scale, 1, 20),
            in_range("gif_frames_per_second", self.fps, 1, 50),
            one_of("output_format", self.output_format, FORMATS),
            seed_fault(self.seed),
        )

    def resolved_seed(self) -> int:
        """Return the seed to use; a new random one at every call where the input leaves it open."""
        return resolve_seed(self.seed)
