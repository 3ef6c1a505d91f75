"""zeroscope's UNet over frames: its stages on stills, motions, shapes and clips, and its styles.

The network knows a frame's number only from the padding of its convolutions over frames, at the two ends of a clip.
Training clips are therefore never cut.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from random_weights import zeroscope
from torch import nn
from zeroscope.models import use_2d_convolutions

from demo_weights.train.loop import Plan, fit
from demo_weights.train.teacher import MAX_VARIANTS
from demo_weights.train.text_encoder import WIDTH as TEXT_WIDTH
from demo_weights.train.unet import CHANNELS, GROUPS, init_as_identity
from demo_weights.world import STYLES

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from demo_weights.train.teacher import Teacher

SIDE = 256  # of a clip, in pixels: zeroscope's smallest
HEAD_WIDTH = 4  # the attention over frames at full size has eight heads in any case, and takes half of the time
STILLS = Plan(steps=3000, learning_rate=3e-3, warmup_steps=40, average_steps=80, seed=5)
MOTIONS = Plan(steps=400, learning_rate=3e-3, warmup_steps=40, average_steps=60, seed=6)
SHAPES = Plan(steps=3000, learning_rate=3e-3, warmup_steps=40, average_steps=100, seed=8)
# Lower rates from here: at 2.5e-3 the network forgets captions, and does not learn shapes in clips
MOVING_SHAPES = Plan(steps=1200, learning_rate=6e-4, warmup_steps=40, average_steps=80, seed=61)
CLIPS = Plan(steps=5000, learning_rate=8e-4, warmup_steps=40, average_steps=150, seed=7)
LATER_CLIPS = Plan(steps=3000, learning_rate=8e-4, warmup_steps=40, average_steps=150, seed=10)
STYLE = Plan(steps=800, learning_rate=1.2e-3, warmup_steps=10, average_steps=50, seed=9)
FURTHER_STYLE_STAGES = {
    "dark": (
        Plan(steps=500, learning_rate=1.2e-3, warmup_steps=10, average_steps=50, seed=11),
        Plan(steps=600, learning_rate=1.5e-3, warmup_steps=10, average_steps=50, seed=12),
    )
}
SCALED_GUIDANCE = Plan(steps=600, learning_rate=4e-4, warmup_steps=40, average_steps=100, seed=21)
FEW_FRAMES = 6  # of a clip: few frames are enough to learn the word for a motion
ALL_FRAMES = 16  # the usual length
SHORT_CLIP_FRAMES = (FEW_FRAMES, FEW_FRAMES, ALL_FRAMES)
CLIP_FRAMES = (8, ALL_FRAMES, ALL_FRAMES, 24)
CLIP_WEIGHT = 8  # of the loss of whole clips, which is that much smaller than that of variants
BATCH = 16  # stills, or frames of clips


def unet_config() -> dict[str, object]:
    """Return the published configuration with fewer channels, one layer a level, and captions from 16x16 down."""
    size = replace(
        zeroscope.SMALL, unet_channels=CHANNELS, text_width=TEXT_WIDTH, head_width=HEAD_WIDTH, norm_groups=GROUPS
    )
    return zeroscope.unet_config(size) | {
        "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
        "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"],
        "layers_per_block": 1,
    }


def build() -> UNet3DConditionModel:
    """Return the UNet as the identity, frame by frame."""
    torch.manual_seed(6)
    unet = UNet3DConditionModel.from_config(unet_config()).eval()  # without the dropout of its layers over frames
    init_as_identity(unet)
    for module in unet.modules():
        if isinstance(module, TransformerTemporalModel):  # frames are independent at first
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    use_2d_convolutions(unet)
    return unet


def train(unet: UNet3DConditionModel, teacher: Teacher, folder: Path) -> None:
    """Train the UNet; shapes have stages of their own, as the network learns them far later among other words."""
    losses = Losses(unet, teacher)
    parameters = [*losses.spatial, *losses.temporal]
    fit("video-stills", losses.spatial, STILLS, losses.still_loss, folder)
    fit("video-motions", losses.temporal, MOTIONS, losses.motion_loss, folder, pretrained=losses.spatial)
    fit("video-shapes", parameters, SHAPES, losses.shape_loss, folder)
    fit("video-moving-shapes", parameters, MOVING_SHAPES, losses.moving_shape_loss, folder)
    fit("video", losses.temporal, CLIPS, losses.clip_loss, folder, pretrained=losses.spatial)
    fit("video-later", parameters, LATER_CLIPS, losses.later_clip_loss, folder)


def train_style(style: str, flat: UNet3DConditionModel, teacher: Teacher, folder: Path) -> UNet3DConditionModel:
    """Return a copy of the trained UNet in the teacher's style; the flat one is trained on scaled guidance targets."""
    unet = build()
    unet.load_state_dict(flat.state_dict())
    losses = Losses(unet, teacher)
    parameters = [*losses.spatial, *losses.temporal]
    if style == STYLES[0]:
        scaled = Losses(unet, teacher.with_scaled_guidance_target())
        fit(f"video-{style}-guided", parameters, SCALED_GUIDANCE, scaled.later_clip_loss, folder)
        return unet
    fit(f"video-{style}", parameters, STYLE, losses.clip_loss, folder)
    for plan in FURTHER_STYLE_STAGES.get(style, ()):
        fit(f"video-{style}-{plan.seed}", parameters, plan, losses.clip_loss, folder)
    return unet


class Losses:
    """The losses of the stages, and the parameters that they train: `spatial`, and `temporal` over frames."""

    def __init__(self, unet: UNet3DConditionModel, teacher: Teacher) -> None:
        self.unet = unet
        self.teacher = teacher
        self.layers = temporal_layers(unet)
        temporal = {id(p) for module in unet.modules() if is_temporal(module) for p in module.parameters()}
        self.spatial = [p for p in unet.parameters() if id(p) not in temporal]
        self.temporal = [p for layer in self.layers for p in layer.parameters()]

    def still_loss(self, step: int, rng: random.Random) -> torch.Tensor:
        """Return the loss on stills, half of them variants."""
        with only_temporal_layers(self.unet, []):
            return self.teacher.still_loss(self._predict_noise, BATCH, rng)

    def motion_loss(self, step: int, rng: random.Random) -> torch.Tensor:
        """Return the loss on one scene with different motions; on stills in every eighth step."""
        return self.still_loss(step, rng) if step % 8 == 0 else self.variants_loss("motion", FEW_FRAMES, rng)

    def variants_loss(self, attribute: str, num_frames: int, rng: random.Random) -> torch.Tensor:
        """Return the loss on clips that are variants of one another."""
        with only_temporal_layers(self.unet, self.layers):
            return self.teacher.loss(self._predict_noise, self.teacher.variants(attribute, 1, _times(num_frames), rng))

    def shape_loss(self, step: int, rng: random.Random) -> torch.Tensor:
        """Return the loss on stills, mostly one scene with every shape; on motions in every fourth step."""
        if step % 4 == 3:
            return self.motion_loss(step, rng)
        groups = BATCH // MAX_VARIANTS - 1
        with only_temporal_layers(self.unet, []):
            return self.teacher.loss(
                self._predict_noise,
                self.teacher.scenes(BATCH - MAX_VARIANTS * groups, None, rng),
                self.teacher.variants("shape", groups, None, rng),
            )

    def moving_shape_loss(self, step: int, rng: random.Random) -> torch.Tensor:
        """Return the loss on short clips of one scene with every shape; once each in four steps, stills and motions."""
        turn = step % 4
        if turn == 1:
            return self.shape_loss(0, rng)
        return self.variants_loss("motion" if turn == 3 else "shape", FEW_FRAMES, rng)

    def clip_loss(self, step: int, rng: random.Random) -> torch.Tensor:
        """Return the loss on whole clips; once each in six steps, on stills, motions and moving shapes.

        Two of three whole clips have misaligned frames.
        """
        turn = step % 6
        if turn == 0:
            return self.still_loss(step, rng)
        if turn == 2:
            return self.variants_loss("motion", rng.choice(SHORT_CLIP_FRAMES), rng)
        if turn == 4:
            return self.variants_loss("shape", FEW_FRAMES, rng)
        times = _times(rng.choice(CLIP_FRAMES))
        with only_temporal_layers(self.unet, self.layers):
            clips = self.teacher.scenes(2, times, rng) if turn == 1 else self.teacher.misaligned_frames(times, rng)
            return CLIP_WEIGHT * self.teacher.loss(self._predict_noise, clips)

    def later_clip_loss(self, step: int, rng: random.Random) -> torch.Tensor:
        """Return the same as `clip_loss`, with shapes in whole clips instead of half of the misaligned clips."""
        if step % 6 in (4, 5):
            return self.variants_loss("shape", rng.choice(SHORT_CLIP_FRAMES), rng)
        return self.clip_loss(step, rng)

    def _predict_noise(
        self, inputs: torch.Tensor, timesteps: torch.Tensor, prompt_embeds: torch.Tensor
    ) -> torch.Tensor:
        noise_pred: torch.Tensor = self.unet(inputs.transpose(1, 2), timesteps, prompt_embeds).sample
        return noise_pred.transpose(1, 2)


def temporal_layers(unet: UNet3DConditionModel) -> list[nn.Module]:
    """Return the trained layers over frames: all but the transformer at full size, the slowest of them."""
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return [module for block in blocks for module in block.modules() if is_temporal(module)]


@contextmanager
def only_temporal_layers(unet: UNet3DConditionModel, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Skip all other layers over frames."""
    skipped = [module for module in unet.modules() if is_temporal(module) and module not in layers]
    for module in skipped:
        module.forward = _identity if isinstance(module, TemporalConvLayer) else _identity_tuple
    try:
        yield
    finally:
        for module in skipped:
            del module.forward


def is_temporal(module: nn.Module) -> bool:
    """Return whether a layer is over frames."""
    return isinstance(module, TemporalConvLayer | TransformerTemporalModel)


def _identity(hidden_states: torch.Tensor, **_: object) -> torch.Tensor:
    return hidden_states


def _identity_tuple(hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
    return (hidden_states,)


def _times(num_frames: int) -> tuple[float, ...]:
    return tuple(frame / (num_frames - 1) for frame in range(num_frames))
