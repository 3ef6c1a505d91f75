"""What one prediction asks for, in the field's words, and every bound that the documented schema lacks."""

from __future__ import annotations

from dataclasses import dataclass

from videokit.checks import in_range, one_of
from videokit.errors import refuse
from videokit.seeds import resolve_seed, seed_fault

# The original's clip (lucataco/cog-animatediff@59c88d9 predict.py): 16 frames, which the motion modules were
# trained on, played at 8 a second.
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
    """The inputs of one clip; `seed` None or 0 is a random one."""

    prompt: str
    negative_prompt: str = ""
    checkpoint: str = CHECKPOINTS[0]
    motion_module: str = MOTION_MODULES[0]
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    seed: int | None = None

    def check(self) -> None:
        """Raise InvalidInput with one line for each input that is not allowed."""
        refuse(
            one_of("path", self.checkpoint, CHECKPOINTS),
            one_of("motion_module", self.motion_module, MOTION_MODULES),
            in_range("steps", self.num_inference_steps, 1, 100),
            in_range("guidance_scale", self.guidance_scale, 1, 10),
            seed_fault(self.seed, zero_is_random=True),
        )

    def resolved_seed(self) -> int:
        """Return the seed to use; a new random one at every call where the input leaves it open."""
        return resolve_seed(self.seed, zero_is_random=True)
