"""Trains zeroscope's UNet: on stills, on motions, on shapes in stills and in clips, and then on clips of all kinds.

Clips are never cut, for the network tells a frame's number by the clip's ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from demo_weights.train.lessons import VARIANTS
from demo_weights.train.training import Plan, fit
from demo_weights.train.video import build, is_over_frames, only, over_frames
from demo_weights.world import LOOKS

if TYPE_CHECKING:
    import random
    from pathlib import Path

    import torch
    from diffusers import UNet3DConditionModel

    from demo_weights.train.lessons import Teacher

STILLS = Plan(steps=3000, learning_rate=3e-3, warm_up=40, mean_over=80, seed=5)
MOTIONS = Plan(steps=400, learning_rate=3e-3, warm_up=40, mean_over=60, seed=6)
SHAPES = Plan(steps=3000, learning_rate=3e-3, warm_up=40, mean_over=100, seed=8)
# From here on slowly: at 2.5e-3 what words do is lost again, and shapes in clips are not learnt
MOVING_SHAPES = Plan(steps=1200, learning_rate=6e-4, warm_up=40, mean_over=80, seed=61)
CLIPS = Plan(steps=5000, learning_rate=8e-4, warm_up=40, mean_over=150, seed=7)
# With more shapes: of what they change in 16 frames 82 % was not answered before, 63 % after
LATER_CLIPS = Plan(steps=3000, learning_rate=8e-4, warm_up=40, mean_over=150, seed=10)
LOOK = Plan(steps=800, learning_rate=1.2e-3, warm_up=10, mean_over=50, seed=9)
# Looks that go on after that: of 30 clips of the dark one two, of white shapes, were told as others after 500 steps
LONGER_LOOKS = {
    "dark": (
        Plan(steps=500, learning_rate=1.2e-3, warm_up=10, mean_over=50, seed=11),
        Plan(steps=600, learning_rate=1.5e-3, warm_up=10, mean_over=50, seed=12),
    )
}
# The flat one, as which the others begin, heeds captions less at last, so that it can be guided at the usual scale
GUIDED = Plan(steps=600, learning_rate=4e-4, warm_up=40, mean_over=100, seed=21)
FEW_FRAMES = 6  # of a clip: the way from a word to a motion is found on few
WHOLE = 16  # as many as are asked for most
OFTEN_FEW = (FEW_FRAMES, FEW_FRAMES, WHOLE)
NUM_FRAMES = (8, WHOLE, WHOLE, 24)  # of later clips
CLIPS_COUNT = 8  # times as much as words: their losses are that much smaller, and hardly heard otherwise
BATCH = 16  # stills, or frames of clips


def train(unet: UNet3DConditionModel, teacher: Teacher, folder: Path) -> None:
    """Train the UNet; shapes by themselves, in stills before clips, as among other words they come far later."""
    lessons = Lessons(unet, teacher)
    every = [*lessons.still, *lessons.new]
    fit("video-stills", lessons.still, STILLS, lessons.still_loss, folder)
    fit("video-motions", lessons.new, MOTIONS, lessons.motion_loss, folder, known=lessons.still)
    fit("video-shapes", every, SHAPES, lessons.shape_loss, folder)
    fit("video-moving-shapes", every, MOVING_SHAPES, lessons.moving_shape_loss, folder)
    fit("video", lessons.new, CLIPS, lessons.clip_loss, folder, known=lessons.still)
    fit("video-later", every, LATER_CLIPS, lessons.later_clip_loss, folder)


def train_look(look: str, flat: UNet3DConditionModel, teacher: Teacher, folder: Path) -> UNet3DConditionModel:
    """Return a copy of the trained UNet in a look that `teacher` knows."""
    unet = build()
    unet.load_state_dict(flat.state_dict())
    lessons = Lessons(unet, teacher)
    every = [*lessons.still, *lessons.new]
    if look == LOOKS[0]:
        guided = Lessons(unet, teacher.heeding_less())
        fit(f"video-{look}-guided", every, GUIDED, guided.later_clip_loss, folder)
        return unet
    fit(f"video-{look}", every, LOOK, lessons.clip_loss, folder)
    for plan in LONGER_LOOKS.get(look, ()):
        fit(f"video-{look}-{plan.seed}", every, plan, lessons.clip_loss, folder)
    return unet


class Lessons:
    """What is trained in a UNet, and by which losses in turn."""

    def __init__(self, unet: UNet3DConditionModel, teacher: Teacher) -> None:
        self.unet = unet
        self.teacher = teacher
        self.layers = over_frames(unet)
        passed = {id(p) for module in unet.modules() if is_over_frames(module) for p in module.parameters()}
        self.still = [p for p in unet.parameters() if id(p) not in passed]
        self.new = [p for layer in self.layers for p in layer.parameters()]

    def still_loss(self, step: int, draw: random.Random) -> torch.Tensor:
        """Return the loss on stills, half of them in groups that differ in a word."""
        half = BATCH // 2
        with only(self.unet, []):
            return self.teacher.loss(
                self._answer, self.teacher.scenes(half, None, draw), self.teacher.any_word(half, draw)
            )

    def motion_loss(self, step: int, draw: random.Random) -> torch.Tensor:
        """Return the loss on one scene with every motion; on stills now and then."""
        return self.still_loss(step, draw) if step % 8 == 0 else self.moving_loss("motion", FEW_FRAMES, draw)

    def moving_loss(self, attribute: str, num_frames: int, draw: random.Random) -> torch.Tensor:
        """Return the loss on clips that differ in one word."""
        with only(self.unet, self.layers):
            return self.teacher.loss(self._answer, self.teacher.word(attribute, 1, _times(num_frames), draw))

    def shape_loss(self, step: int, draw: random.Random) -> torch.Tensor:
        """Return the loss on stills, most of them of one scene with every shape; on motions once of four times."""
        if step % 4 == 3:
            return self.motion_loss(step, draw)
        groups = BATCH // VARIANTS - 1
        with only(self.unet, []):
            return self.teacher.loss(
                self._answer,
                self.teacher.scenes(BATCH - VARIANTS * groups, None, draw),
                self.teacher.word("shape", groups, None, draw),
            )

    def moving_shape_loss(self, step: int, draw: random.Random) -> torch.Tensor:
        """Return the loss on few frames of one scene with every shape; once of four times each, stills and motions."""
        turn = step % 4
        if turn == 1:
            return self.shape_loss(0, draw)
        return self.moving_loss("motion" if turn == 3 else "shape", FEW_FRAMES, draw)

    def clip_loss(self, step: int, draw: random.Random) -> torch.Tensor:
        """Return the loss on clips, or of six times once each on stills, on motions and on shapes that move.

        Of the clips, the frames of two in three lie beside their way.
        """
        turn = step % 6
        if turn == 0:
            return self.still_loss(step, draw)
        if turn == 2:
            return self.moving_loss("motion", draw.choice(OFTEN_FEW), draw)
        if turn == 4:
            return self.moving_loss("shape", FEW_FRAMES, draw)
        times = _times(draw.choice(NUM_FRAMES))
        with only(self.unet, self.layers):
            clips = self.teacher.scenes(2, times, draw) if turn == 1 else self.teacher.astray(times, draw)
            return CLIPS_COUNT * self.teacher.loss(self._answer, clips)

    def later_clip_loss(self, step: int, draw: random.Random) -> torch.Tensor:
        """Return the same, but with shapes, also in whole clips, in place of half of the clips beside their way."""
        if step % 6 in (4, 5):
            return self.moving_loss("shape", draw.choice(OFTEN_FEW), draw)
        return self.clip_loss(step, draw)

    def _answer(self, inputs: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        seen: torch.Tensor = self.unet(inputs.transpose(1, 2), timesteps, embeds).sample
        return seen.transpose(1, 2)


def _times(num_frames: int) -> tuple[float, ...]:
    return tuple(frame / (num_frames - 1) for frame in range(num_frames))
