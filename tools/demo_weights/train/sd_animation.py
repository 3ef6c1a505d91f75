"""sd-animation's UNet: the base of animate-diff, trained further on larger pictures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from demo_weights.train.animate_diff import build, still_loss
from demo_weights.train.loop import Plan, fit

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import UNet2DConditionModel

    from demo_weights.train.teacher import Teacher

STILLS = Plan(steps=1000, learning_rate=2e-3, warmup_steps=30, average_steps=100, seed=8)
SCALED_GUIDANCE = Plan(steps=400, learning_rate=1e-3, warmup_steps=30, average_steps=100, seed=28)
SIDE = 128  # of the smallest pictures, in pixels


def train(base: UNet2DConditionModel, teacher: Teacher, folder: Path) -> UNet2DConditionModel:
    """Return a copy of the base for pictures of SIDE, which the teacher must have.

    Animations start from latents of another prompt, so the targets have no caption prior. The last stage scales the
    guidance target, which makes the usual guidance scale work.
    """
    larger, _ = build(SIDE // 8)
    larger.load_state_dict(base.state_dict())
    fit("larger", larger.parameters(), STILLS, partial(still_loss, larger, teacher), folder)
    scaled_loss = partial(still_loss, larger, teacher.with_scaled_guidance_target())
    fit("own", larger.parameters(), SCALED_GUIDANCE, scaled_loss, folder)
    return larger
