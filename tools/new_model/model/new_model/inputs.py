"""The inputs of one prediction under diffusers' names, and the bounds that the documented schema lacks."""

from __future__ import annotations

from dataclasses import dataclass

from videokit.checks import check_count
from videokit.errors import raise_faults
from videokit.seeds import check_seed, resolve_seed

FPS = 8


@dataclass(frozen=True)
class Inputs:
    """The inputs of one clip; `seed` None means a random seed."""

    num_frames: int = 16
    seed: int | None = None

    def check(self) -> None:
        """Raise InvalidInput with one line for each invalid input."""
        raise_faults(check_count("num_frames", self.num_frames, 1, 240), check_seed(self.seed))

    def resolved_seed(self) -> int:
        """Return the seed; if the input requests a random one, each call returns another."""
        return resolve_seed(self.seed)
