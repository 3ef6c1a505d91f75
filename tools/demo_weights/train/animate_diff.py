"""animate-diff's networks: the base UNet, its motion modules and its styles.

A motion module has no access to the caption, and stills teach the base nothing about directions. The base therefore
trains on while its first motion module trains. The other motion modules train on the frozen base.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from animate_diff.motion_module import MID_BLOCK, scope_norms, set_norm_scope
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from random_weights.animate_diff import SMALL, motion_config
from torch import nn

from demo_weights.train.loop import Plan, fit
from demo_weights.train.teacher import MAX_VARIANTS
from demo_weights.train.text_encoder import WIDTH as TEXT_WIDTH
from demo_weights.train.unet import CHANNELS, GROUPS, init_as_identity, unet_config

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from diffusers.models.attention_processor import Attention

    from demo_weights.train.teacher import PredictNoise, Teacher

STILLS = Plan(steps=3200, learning_rate=4e-3, warmup_steps=50, average_steps=100, seed=3)
MOTIONS = Plan(steps=600, learning_rate=3e-3, warmup_steps=60, average_steps=100, seed=9)
DEFAULT_MODULE = "mm_sd_v14"
CLIPS = Plan(steps=12000, learning_rate=3e-3, warmup_steps=60, average_steps=200, seed=4)
CLIPS_SLOWLY = Plan(steps=3000, learning_rate=1e-3, warmup_steps=40, average_steps=200, seed=10)
OTHER_MODULES = {
    "mm_sd_v15": Plan(steps=300, learning_rate=1e-3, warmup_steps=30, average_steps=60, seed=6),
    "mm_sd_v15_v2": Plan(steps=1000, learning_rate=2e-3, warmup_steps=30, average_steps=100, seed=5),
}
STYLE = Plan(steps=1000, learning_rate=2e-3, warmup_steps=20, average_steps=80, seed=7)
STYLE_SLOWLY = Plan(steps=1000, learning_rate=1e-3, warmup_steps=20, average_steps=100, seed=8)
SIDE = 64  # of a clip, in pixels
NUM_FRAMES = 16
BATCH = 32  # stills, or frames of clips
FEW_FRAMES = 4  # of a clip in some steps, for more clips in a batch
PART = 4  # number of early frames, and of late ones
SELF_ATTENTION = 1.5  # initial strength of a frame's attention to itself


def build(sample_size: int) -> tuple[UNet2DConditionModel, UNetMotionModel]:
    """Return the base and the UNet with motion modules, which share their parameters; both are the identity."""
    torch.manual_seed(2)
    base = UNet2DConditionModel.from_config(unet_config(TEXT_WIDTH, sample_size))
    init_as_identity(base)
    size = replace(SMALL, unet_channels=CHANNELS, norm_groups=GROUPS)
    config = motion_config(size, "mm_sd_v15_v2") | {"motion_num_attention_heads": 4}
    motion_unet = UNetMotionModel.from_unet2d(base, MotionAdapter.from_config(config))
    scope_norms(motion_unet)
    for module in motion_unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
            for block in module.transformer_blocks:
                _init_attention_as_identity(block.attn1)
                _init_attention_as_identity(block.attn2)
    shared = dict(motion_unet.named_parameters())
    for name, _ in list(base.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        setattr(base.get_submodule(owner), leaf, shared[name])
    return base, motion_unet


def train(base: UNet2DConditionModel, motion_unet: UNetMotionModel, teacher: Teacher, folder: Path) -> None:
    """Train the base on stills, then the base and its first motion module together; freeze the base.

    Together they train on motions alone first, which takes far longer among other clips.
    """
    fit("stills", base.parameters(), STILLS, partial(still_loss, base, teacher), folder)

    def motion_loss(step: int, rng: random.Random) -> torch.Tensor:
        if step % 8 == 0:
            return still_loss(base, teacher, step, rng)
        return two_frames_loss("motion", motion_unet, teacher, rng)

    loss_at = partial(mixed_loss, 4, base, motion_unet, teacher.with_caption_prior())
    motion = _select_module(motion_unet, DEFAULT_MODULE)
    fit("motions", motion, MOTIONS, motion_loss, folder, pretrained=base.parameters())
    fit(DEFAULT_MODULE, motion, CLIPS, loss_at, folder, pretrained=base.parameters())
    fit(f"{DEFAULT_MODULE}-slowly", motion, CLIPS_SLOWLY, loss_at, folder, pretrained=base.parameters())
    base.requires_grad_(False)


def train_other_module(first: UNetMotionModel, name: str, teacher: Teacher, folder: Path) -> UNetMotionModel:
    """Return the UNet with a motion module of OTHER_MODULES, which starts as the first one; the base is frozen."""
    _, motion_unet = build(SIDE // 8)
    motion_unet.load_state_dict(first.state_dict())
    motion_unet.requires_grad_(False)
    trained = [parameter.requires_grad_() for parameter in _select_module(motion_unet, name)]
    fit(name, trained, OTHER_MODULES[name], partial(clip_loss, motion_unet, teacher.with_caption_prior()), folder)
    return motion_unet


def train_style(style: str, first: UNetMotionModel, teacher: Teacher, folder: Path) -> UNet2DConditionModel:
    """Return the base in the teacher's style, fine-tuned on stills and on clips with the frozen motion module."""
    base, motion_unet = build(SIDE // 8)
    motion_unet.load_state_dict(first.state_dict())
    set_norm_scope(motion_unet, first.conv_norm_out.num_frames)
    for parameter in motion_parameters(motion_unet).values():
        parameter.requires_grad_(False)
    with_prior = teacher.with_caption_prior()
    # without clips a style would lose its motions
    for stage, plan, n in ((style, STYLE, 2), (f"{style}-slowly", STYLE_SLOWLY, 4)):
        fit(stage, base.parameters(), plan, partial(mixed_loss, n, base, motion_unet, with_prior), folder)
    return base.requires_grad_(False)


def mixed_loss(
    n: int, base: UNet2DConditionModel, motion_unet: UNetMotionModel, teacher: Teacher, step: int, rng: random.Random
) -> torch.Tensor:
    """Return the loss on stills in every n-th step, and on clips in the others."""
    return clip_loss(motion_unet, teacher, step, rng) if step % n else still_loss(base, teacher, step, rng)


def still_loss(base: UNet2DConditionModel, teacher: Teacher, step: int, rng: random.Random) -> torch.Tensor:
    """Return the loss on stills, half of them variants."""

    def predict_noise(inputs: torch.Tensor, timesteps: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        noise_pred: torch.Tensor = base(inputs[:, 0], timesteps, prompt_embeds).sample
        return noise_pred[:, None]

    return teacher.still_loss(predict_noise, BATCH, rng)


def clip_loss(motion_unet: UNetMotionModel, teacher: Teacher, step: int, rng: random.Random) -> torch.Tensor:
    """Return the loss on clips of all or a few frames, or on two frames with variants of motion or of shape."""
    if step % 3 == 2:
        return two_frames_loss("motion", motion_unet, teacher, rng)
    if step % 12 in (7, 10):
        return two_frames_loss("shape", motion_unet, teacher, rng)
    frames = sorted(rng.sample(range(NUM_FRAMES), FEW_FRAMES if rng.random() < 1 / 3 else NUM_FRAMES))
    clips = teacher.scenes(BATCH // len(frames), _times(frames), rng)
    return teacher.loss(_predict_noise_at(motion_unet, frames), clips)


def two_frames_loss(attribute: str, motion_unet: UNetMotionModel, teacher: Teacher, rng: random.Random) -> torch.Tensor:
    """Return the loss on an early and a late frame of variants."""
    frames = (rng.randrange(PART), NUM_FRAMES - 1 - rng.randrange(PART))
    groups = BATCH // len(frames) // MAX_VARIANTS
    variants = teacher.variants(attribute, groups, _times(frames), rng)
    return teacher.loss(_predict_noise_at(motion_unet, frames), variants)


def _select_module(motion_unet: UNetMotionModel, name: str) -> list[nn.Parameter]:
    """Return the parameters of a motion module, and set the UNet's norms to those of its kind.

    v14 and v15 have no mid block, and their norms' statistics are over all frames. v2 has a mid block, and norms for
    each frame.
    """
    with_mid_block = name.endswith("v2")
    set_norm_scope(motion_unet, 1 if with_mid_block else NUM_FRAMES)
    return [p for key, p in motion_parameters(motion_unet).items() if with_mid_block or not key.startswith(MID_BLOCK)]


def motion_parameters(motion_unet: UNetMotionModel) -> dict[str, nn.Parameter]:
    """Return the parameters that are not part of the base, by name."""
    return {name: p for name, p in motion_unet.named_parameters() if ".motion_modules." in name}


def _times(frames: Sequence[int]) -> tuple[float, ...]:
    return tuple(frame / (NUM_FRAMES - 1) for frame in frames)


def _predict_noise_at(motion_unet: UNetMotionModel, frames: Sequence[int]) -> PredictNoise:
    """Return the UNet's prediction for clips whose frames have these numbers."""

    def predict_noise(inputs: torch.Tensor, timesteps: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        with frame_numbers(motion_unet, frames):
            of_frames = prompt_embeds.repeat_interleave(len(frames), dim=0)
            noise_pred: torch.Tensor = motion_unet(inputs.transpose(1, 2), timesteps, of_frames).sample
        return noise_pred.transpose(1, 2)

    return predict_noise


@contextmanager
def frame_numbers(motion_unet: UNetMotionModel, frames: Sequence[int]) -> Iterator[None]:
    """Give a clip's frames these numbers in the positional embeddings, instead of the first of NUM_FRAMES."""
    if motion_unet.conv_norm_out.num_frames > 1:
        set_norm_scope(motion_unet, len(frames))
    modules = [module for module in motion_unet.modules() if isinstance(module, SinusoidalPositionalEmbedding)]
    tables = [module.pe for module in modules]
    try:
        for module, table in zip(modules, tables, strict=True):
            module.pe = table[:, list(frames)]
        yield
    finally:
        for module, table in zip(modules, tables, strict=True):
            module.pe = table


@torch.no_grad()
def _init_attention_as_identity(attention: Attention) -> None:
    """Make each frame attend to itself mostly; random weights mix all frames and hide their numbers."""
    for weight in (attention.to_q.weight, attention.to_k.weight):
        nn.init.eye_(weight).mul_(SELF_ATTENTION)
    nn.init.eye_(attention.to_v.weight)
    nn.init.eye_(attention.to_out[0].weight).mul_(0.5)
