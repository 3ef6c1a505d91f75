"""The inputs of one prediction under diffusers' names, their bounds, and the counts that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

from videokit.checks import check_choice, check_count, check_range, check_text
from videokit.errors import raise_faults
from videokit.seeds import check_seed, resolve_seed

from sd_animation.prompt_walk import check_prompts, split_prompts

WIDTHS = (128, 256, 512, 768, 1024)
HEIGHTS = (128, 256, 512, 768)
FORMATS = ("gif", "mp4")


@dataclass(frozen=True)
class Inputs:
    """The inputs of one animation; `num_animation_frames` is per pair of prompts, `seed` None means a random seed."""

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
        """The prompts p0 to pS of the walk."""
        return [self.prompt_start, *split_prompts(self.prompt_end)]

    @property
    def num_keyframes(self) -> int:
        """N, the frames that are denoised: `num_animation_frames` for each of the S pairs of prompts."""
        return (len(self.prompts) - 1) * self.num_animation_frames

    @property
    def num_frames(self) -> int:
        """F, the frames of the file: keyframes, interpolated frames, and the reverse if `ping_pong`."""
        forward = (self.num_keyframes - 1) * self.num_interpolation_steps + 1
        return 2 * forward - 2 if self.ping_pong else forward

    @property
    def num_shared_steps(self) -> int:
        """k, the first steps, which are computed once for all frames."""
        return round(self.num_inference_steps * (1 - self.prompt_strength))

    def check(self) -> None:
        """Raise InvalidInput with one line for each invalid input."""
        raise_faults(
            check_text("prompt_start", self.prompt_start),
            check_text("prompt_end", self.prompt_end),
            *check_prompts(self.prompt_end),
            check_choice("width", self.width, WIDTHS),
            check_choice("height", self.height, HEIGHTS),
            check_count("num_inference_steps", self.num_inference_steps, 1, 500),
            check_range("prompt_strength", self.prompt_strength, 0, 1),
            check_count("num_animation_frames", self.num_animation_frames, 2, 50),
            check_count("num_interpolation_steps", self.num_interpolation_steps, 1, 50),
            check_range("guidance_scale", self.guidance_scale, 1, 20),
            check_count("gif_frames_per_second", self.fps, 1, 50),
            check_choice("output_format", self.output_format, FORMATS),
            check_seed(self.seed),
        )

    def resolved_seed(self) -> int:
        """Return the seed; if the input requests a random one, each call returns another."""
        return resolve_seed(self.seed)
