"""The base in other looks: fine-tuned on their stills, and on motions with the motion module as it is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from animate_diff.motion_module import set_norm_scope

from demo_weights.train.motion import SIDE, build, clip_loss, motion_parameters, still_loss
from demo_weights.train.training import Plan, fit

if TYPE_CHECKING:
    import random
    from pathlib import Path

    import torch
    from diffusers import UNet2DConditionModel, UNetMotionModel

    from demo_weights.train.lessons import Teacher

PLAN = Plan(steps=1000, learning_rate=2e-3, warm_up=20, mean_over=80, seed=7)
SLOWLY = Plan(steps=1000, learning_rate=1e-3, warm_up=20, mean_over=100, seed=8)


def train(
    look: str, base: UNetMotionModel, teacher: Teacher, folder: Path
) -> tuple[UNet2DConditionModel, UNetMotionModel]:
    """Return the base in a look that `teacher` has clips of, alone and with the motion module that `base` has."""
    still, moving = build(SIDE // 8)
    moving.load_state_dict(base.state_dict())
    set_norm_scope(moving, base.conv_norm_out.num_frames)
    for parameter in motion_parameters(moving).values():
        parameter.requires_grad_(False)

    doubting = teacher.doubting()

    def loss_at(clips: int, step: int, draw: random.Random) -> torch.Tensor:
        if step % (clips + 1):  # else a look would let motions go
            return clip_loss(moving, doubting, step, draw)
        return still_loss(still, doubting, step, draw)

    fit(look, still.parameters(), PLAN, partial(loss_at, 1), folder)
    fit(f"{look}-slowly", still.parameters(), SLOWLY, partial(loss_at, 3), folder)
    still.requires_grad_(False)
    return still, moving
