"""The base's UNet and its motion modules: built as one, trained on stills, then on stills and clips.

A motion module sees no caption. What a word for a direction does has to be in the base's features, where nothing in a
still would put it; so the base goes on learning while its first motion module learns. Further motion modules are
trained on the base as it is then.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from animate_diff.motion_module import MID_BLOCK, scope_norms, set_norm_scope
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn

from demo_weights.train.denoiser import CHANNELS, GROUPS, begin_as_identity, unet_config
from demo_weights.train.lessons import VARIANTS
from demo_weights.train.text_encoder import WIDTH as TEXT_WIDTH
from demo_weights.train.training import Plan, fit

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from diffusers.models.attention_processor import Attention

    from demo_weights.train.lessons import Answer, Teacher

STILLS = Plan(steps=3200, learning_rate=4e-3, warm_up=50, mean_over=100, seed=3)
MOTIONS = Plan(steps=600, learning_rate=3e-3, warm_up=60, mean_over=100, seed=9)
FIRST = "mm_sd_v14"  # the motion module that is taken by default
MOTION = Plan(steps=12000, learning_rate=3e-3, warm_up=60, mean_over=200, seed=4)
# Then at a lower rate: of 24 prompts the worst still one drifted 8.8 pixels before, 3.8 after
SLOWLY = Plan(steps=3000, learning_rate=1e-3, warm_up=40, mean_over=200, seed=10)
# On the frozen base, from the first module's weights
FURTHER = {
    "mm_sd_v15": Plan(steps=300, learning_rate=1e-3, warm_up=30, mean_over=60, seed=6),
    "mm_sd_v15_v2": Plan(steps=1000, learning_rate=2e-3, warm_up=30, mean_over=100, seed=5),
}
LARGER = Plan(steps=1000, learning_rate=2e-3, warm_up=30, mean_over=100, seed=8)
# No more: by eight seeds 92 % of the steps of hue in walks go their way, 87 % after 600 steps more
LARGER_GUIDED = Plan(steps=400, learning_rate=1e-3, warm_up=30, mean_over=100, seed=28)
SIDE = 64  # of a clip, in pixels
LARGER_SIDE = 128  # of sd-animation's smallest pictures
NUM_FRAMES = 16
BATCH = 32  # stills, or frames of clips
FEW_FRAMES = 4  # of a clip in some steps: as many frames cost the same, and so there are more clips
PART = 4  # frames that are early, or late
SELF = 1.5  # how strongly a frame attends to itself at first, so that there is something in it that tells it apart


def build(sample_size: int) -> tuple[UNet2DConditionModel, UNetMotionModel]:
    """Return the base and the UNet with motion modules, which share their parameters; both return their input yet."""
    torch.manual_seed(2)
    base = UNet2DConditionModel.from_config(unet_config(TEXT_WIDTH, sample_size))
    begin_as_identity(base)
    adapter = MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=2,
        motion_num_attention_heads=4,
        motion_norm_num_groups=GROUPS,
        motion_max_seq_length=32,
        use_motion_mid_block=True,
    )
    moving = UNetMotionModel.from_unet2d(base, adapter)
    scope_norms(moving)
    for module in moving.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
            for block in module.transformer_blocks:
                _see_the_frame(block.attn1)
                _see_the_frame(block.attn2)
    shared = dict(moving.named_parameters())
    for name, _ in list(base.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        setattr(base.get_submodule(owner), leaf, shared[name])
    return base, moving


def train(base: UNet2DConditionModel, moving: UNetMotionModel, teacher: Teacher, folder: Path) -> None:
    """Train the base on stills, then the base and its first motion module together; the base is frozen then.

    Together they learn what a word for a motion does first, by that alone: among other clips it takes far longer.
    """
    fit("stills", base.parameters(), STILLS, partial(still_loss, base, teacher), folder)

    def of_motions(step: int, draw: random.Random) -> torch.Tensor:
        if step % 8 == 0:
            return still_loss(base, teacher, step, draw)
        return two_frames_loss("motion", moving, teacher, draw)

    doubting = teacher.doubting()

    def in_turn(step: int, draw: random.Random) -> torch.Tensor:
        return still_loss(base, doubting, step, draw) if step % 4 == 0 else clip_loss(moving, doubting, step, draw)

    motion = _of_kind(moving, FIRST)
    fit("motions", motion, MOTIONS, of_motions, folder, known=base.parameters())
    fit(FIRST, motion, MOTION, in_turn, folder, known=base.parameters())
    fit(f"{FIRST}-slowly", motion, SLOWLY, in_turn, folder, known=base.parameters())
    base.requires_grad_(False)


def train_further(first: UNetMotionModel, name: str, teacher: Teacher, folder: Path) -> UNetMotionModel:
    """Return the UNet with a motion module of FURTHER, which begins as the first one; the base stays as it is."""
    _, moving = build(SIDE // 8)
    moving.load_state_dict(first.state_dict())
    moving.requires_grad_(False)
    trained = [parameter.requires_grad_() for parameter in _of_kind(moving, name)]
    doubting = teacher.doubting()

    def loss_at(step: int, draw: random.Random) -> torch.Tensor:
        return clip_loss(moving, doubting, step, draw)

    fit(name, trained, FURTHER[name], loss_at, folder)
    return moving


def train_larger(base: UNet2DConditionModel, teacher: Teacher, folder: Path) -> UNet2DConditionModel:
    """Return a copy of the base for pictures of LARGER_SIDE, where shapes are larger too; the teacher knows them.

    The copy believes captions, as sd-animation's begin where another one was followed first; but at last it heeds them
    less, so that it can be guided at the usual scale.
    """
    larger, _ = build(LARGER_SIDE // 8)
    larger.load_state_dict(base.state_dict())
    fit("larger", larger.parameters(), LARGER, partial(still_loss, larger, teacher), folder)
    guided = partial(still_loss, larger, teacher.heeding_less())
    fit("own", larger.parameters(), LARGER_GUIDED, guided, folder)
    return larger


def still_loss(base: UNet2DConditionModel, teacher: Teacher, step: int, draw: random.Random) -> torch.Tensor:
    """Return the loss on stills, half of them in groups that differ in a word."""

    def answer(inputs: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        seen: torch.Tensor = base(inputs[:, 0], timesteps, embeds).sample
        return seen[:, None]

    return teacher.loss(answer, teacher.scenes(BATCH // 2, None, draw), teacher.any_word(BATCH // 2, draw))


def clip_loss(moving: UNetMotionModel, teacher: Teacher, step: int, draw: random.Random) -> torch.Tensor:
    """Return the loss on clips, all of their frames or a few, or on motions, or on shapes."""
    if step % 3 == 2:
        return two_frames_loss("motion", moving, teacher, draw)
    if step % 12 in (7, 10):
        return two_frames_loss("shape", moving, teacher, draw)
    frames = sorted(draw.sample(range(NUM_FRAMES), FEW_FRAMES if draw.random() < 1 / 3 else NUM_FRAMES))
    return teacher.loss(_at(moving, frames), teacher.scenes(BATCH // len(frames), _times(frames), draw))


def two_frames_loss(attribute: str, moving: UNetMotionModel, teacher: Teacher, draw: random.Random) -> torch.Tensor:
    """Return the loss on an early and a late frame of scenes that differ in one word."""
    frames = (draw.randrange(PART), NUM_FRAMES - 1 - draw.randrange(PART))
    groups = BATCH // len(frames) // VARIANTS
    return teacher.loss(_at(moving, frames), teacher.word(attribute, groups, _times(frames), draw))


def _of_kind(moving: UNetMotionModel, name: str) -> list[nn.Parameter]:
    """Return the parameters of a motion module, and let the UNet's norms be those of its kind.

    v14 and v15 have no mid block, and the norms' statistics are over all frames; the v2 has one, and they are not.
    """
    with_mid_block = name.endswith("v2")
    set_norm_scope(moving, 1 if with_mid_block else NUM_FRAMES)
    return [p for key, p in motion_parameters(moving).items() if with_mid_block or not key.startswith(MID_BLOCK)]


def motion_parameters(moving: UNetMotionModel) -> dict[str, nn.Parameter]:
    """Return the parameters that are no part of the base, by their names."""
    return {name: p for name, p in moving.named_parameters() if ".motion_modules." in name}


def _times(frames: Sequence[int]) -> tuple[float, ...]:
    return tuple(frame / (NUM_FRAMES - 1) for frame in frames)


def _at(moving: UNetMotionModel, frames: Sequence[int]) -> Answer:
    """Return what the UNet answers when a clip's frames have these numbers."""

    def answer(inputs: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        with _of(moving, frames):
            of_frames = embeds.repeat_interleave(len(frames), dim=0)
            seen: torch.Tensor = moving(inputs.transpose(1, 2), timesteps, of_frames).sample
        return seen.transpose(1, 2)

    return answer


@contextmanager
def _of(unet: UNetMotionModel, frames: Sequence[int]) -> Iterator[None]:
    """Let the UNet take a clip's frames for those with these numbers, and not for the first ones of NUM_FRAMES."""
    if unet.conv_norm_out.num_frames > 1:
        set_norm_scope(unet, len(frames))
    tables = [module for module in unet.modules() if isinstance(module, SinusoidalPositionalEmbedding)]
    whole = [module.pe for module in tables]
    try:
        for module, table in zip(tables, whole, strict=True):
            module.pe = table[:, list(frames)]
        yield
    finally:
        for module, table in zip(tables, whole, strict=True):
            module.pe = table


@torch.no_grad()
def _see_the_frame(attention: Attention) -> None:
    """Let an attention over frames begin as the identity: at random it mixes all frames, and none knows its number."""
    for weight in (attention.to_q.weight, attention.to_k.weight):
        nn.init.eye_(weight).mul_(SELF)
    nn.init.eye_(attention.to_v.weight)
    nn.init.eye_(attention.to_out[0].weight).mul_(0.5)
