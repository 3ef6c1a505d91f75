"""The walk through the prompts: the prompts, the position of each frame, and the embedding at a position.

A position is measured in prompts: 0 is the first, 1 the second, 0.5 half-way between the two.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

NEARLY_PARALLEL = 0.9995  # |cosine| above which slerp would divide by almost 0; the original's threshold


def split_prompts(prompt_end: str) -> list[str]:
    """Return the prompts in `prompt_end`, separated by |, without surrounding spaces."""
    return [segment.strip() for segment in prompt_end.split("|")]


def check_prompts(prompt_end: str) -> list[str]:
    """Return one line for each empty prompt in `prompt_end`."""
    prompts = split_prompts(prompt_end)
    if prompts == [""]:
        return ["prompt_end is empty; describe the end of the animation"]
    return [
        f"prompt_end: prompt {number} of {len(prompts)} between the | is empty; write one, or remove its |"
        for number, prompt in enumerate(prompts, start=1)
        if not prompt
    ]


def frame_positions(num_prompts: int, num_frames: int) -> list[float]:
    """Return the positions of `num_frames` frames (at least 2), evenly spaced from the first prompt to the last."""
    return [index * (num_prompts - 1) / (num_frames - 1) for index in range(num_frames)]


def embeddings_at(positions: Sequence[float], prompt_embeds: torch.Tensor) -> torch.Tensor:
    """Return the embedding at each position, (B, L, D) float32, from those of the prompts, (P, L, D)."""
    embeds = []
    for position in positions:
        first = min(int(position), len(prompt_embeds) - 2)
        embeds.append(slerp(prompt_embeds[first], prompt_embeds[first + 1], position - first))
    return torch.stack(embeds)


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Return the point at the fraction `t` of the great circle from `a` to `b`, in float32.

    Each tensor is one vector, whatever its shape. Nearly parallel vectors are interpolated linearly. float32 is needed
    because the norm of an embedding overflows in half precision.
    Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, section 3.3.
    """
    a, b = a.float(), b.float()
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    if not abs(cosine) <= NEARLY_PARALLEL:  # also for NaN, the cosine of a zero vector
        return torch.lerp(a, b, t)
    angle = math.acos(cosine)
    # Dividing first makes the factors exactly 1 and 0 at both ends, so the result there is the end itself.
    return math.sin((1 - t) * angle) / math.sin(angle) * a + math.sin(t * angle) / math.sin(angle) * b
