"""Seeds, and the noise that is drawn from them: one seed gives one clip on every device."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from videokit.checks import check_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

MAX_SEED = 2**31 - 1  # the documented maximum of animate-diff; the other models use the same


def check_seed(seed: int | None, *, zero_is_random: bool = False) -> str | None:
    """Return what is wrong with a seed that is not None or 0 to 2147483647, or None."""
    if seed is None or 0 <= seed <= MAX_SEED:
        return None if seed is None else check_whole("seed", seed)
    random = "omit it or give 0 for a random one" if zero_is_random else "omit it for a random one"
    return f"seed={seed} is out of range (0 to {MAX_SEED}); {random}"


def resolve_seed(seed: int | None, *, zero_is_random: bool = False) -> int:
    """Return `seed`, or a random one (1 to 2147483647) from the operating system for None, and for 0 if requested."""
    if seed is None or (seed == 0 and zero_is_random):
        return secrets.randbelow(MAX_SEED) + 1
    return seed


def noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    """Return standard normal noise, float32 on the CPU, from a generator of its own."""
    import torch

    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)
