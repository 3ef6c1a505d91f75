"""The path through the prompts: which they are, where on it each frame stands, and the embedding there.

A position counts prompts: 0 is the first, 1 the second, 0.5 half-way between the two.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

NEARLY_PARALLEL = 0.9995  # |cosine| above which slerp divides by next to nothing; the original's threshold


def split_prompts(prompt_end: str) -> list[str]:
    """Return the prompts that `prompt_end` names, separated by |, without the space around them."""
    return [segment.strip() for segment in prompt_end.split("|")]


def segment_faults(prompt_end: str) -> list[str]:
    """Tell which of the prompts in `prompt_end` are empty."""
    segments = split_prompts(prompt_end)
    if segments == [""]:
        return ["prompt_end is empty; say what the animation ends with"]
    return [
        f"prompt_end: prompt {index} of {len(segments)} between the | is empty; fill it, or take its | away"
        for index, segment in enumerate(segments, start=1)
        if not segment
    ]


def positions(num_prompts: int, num_frames: int) -> list[float]:
    """Return where each of `num_frames` (at least 2) frames stands: evenly, from the first prompt to the last."""
    return [index * (num_prompts - 1) / (num_frames - 1) for index in range(num_frames)]


def embeddings_at(places: Sequence[float], prompt_embeds: torch.Tensor) -> torch.Tensor:
    """Return the embedding at each position, (B, L, D) float32, from those of the prompts, (P, L, D)."""
    embeds = []
    for place in places:
        first = min(int(place), len(prompt_embeds) - 2)
        embeds.append(slerp(prompt_embeds[first], prompt_embeds[first + 1], place - first))
    return torch.stack(embeds)


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Go the part `t` of the great circle from `a` to `b`, each taken as one vector whatever its shape, in float32.

    On a straight line where they are nearly parallel. In half precision the norm of an embedding overflows.
    Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, section 3.3.
    """
    a, b = a.float(), b.float()
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    if not abs(cosine) <= NEARLY_PARALLEL:  # NaN, where one is zero, has no angle either
        return torch.lerp(a, b, t)
    angle = math.acos(cosine)
    # divided first: at both ends the factors are 1 and 0, and the result is the end itself to the last digit
    return math.sin((1 - t) * angle) / math.sin(angle) * a + math.sin(t * angle) / math.sin(angle) * b
