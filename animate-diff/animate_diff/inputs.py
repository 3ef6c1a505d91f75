"""The inputs of one prediction under diffusers' names, and the bounds that the documented schema lacks."""

from __future__ import annotations

from dataclasses import dataclass

from videokit.checks import check_choice, check_count, check_range, check_text
from videokit.errors import raise_faults
from videokit.seeds import check_seed, resolve_seed

# The original's clip (lucataco/cog-animatediff@59c88d9 predict.py): 16 frames, the length that the motion modules
# were trained on, at 8 frames a second.
NUM_FRAMES = 16
FPS = 8

CHECKPOINTS = (
    "toonyou_beta3.safetensors",
    "lyriel_v16.safetensors",
    "rcnzCartoon3d_v10.safetensors",
    "majicmixRealistic_v5Preview.safetensors",
    "realisticVisionV40_v20Novae.safetensors",
)
MOTION_MODULES = ("mm_sd_v14", "mm_sd_v15", "mm_sd_v15_v2")


@dataclass(frozen=True)
class Inputs:
    """The inputs of one clip; `seed` None or 0 means a random seed."""

    prompt: str
    negative_prompt: str = ""
    checkpoint: str = CHECKPOINTS[0]
    motion_module: str = MOTION_MODULES[0]
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    seed: int | None = None

    def check(self) -> None:
        """Raise InvalidInput with one line for each invalid input."""
        raise_faults(
            check_text("prompt", self.prompt),
            check_text("n_prompt", self.negative_prompt),
            check_choice("path", self.checkpoint, CHECKPOINTS),
            check_choice("motion_module", self.motion_module, MOTION_MODULES),
            check_count("steps", self.num_inference_steps, 1, 100),
            check_range("guidance_scale", self.guidance_scale, 1, 10),
            check_seed(self.seed, zero_is_random=True),
        )

    def resolved_seed(self) -> int:
        """Return the seed; if the input requests a random one, each call returns another."""
        return resolve_seed(self.seed, zero_is_random=True)
