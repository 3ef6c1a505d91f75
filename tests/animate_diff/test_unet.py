"""What the UNet computes with each kind of motion module, compared with AnimateDiff's definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from animate_diff.inputs import CHECKPOINTS, MOTION_MODULES, NUM_FRAMES
from animate_diff.pipeline import Pipeline
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from random_weights import animate_diff as recipe
from reference_unet import ReferenceUNet
from safetensors.torch import load_file
from stores import CPU, store_of
from videokit.runtime import Stages

# by the motion module, the original's use_inflated_groupnorm (guoyww/AnimateDiff@e92bd56 configs/inference/)
KINDS = {"mm_sd_v14": False, "mm_sd_v15": False, "mm_sd_v15_v2": True, "v3_sd15_mm": True}
TIMESTEP = 521


def sample_and_text(pipeline: Pipeline) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    # twice the native side, because with a single pixel at the lowest level the norm of a group would be that of two
    # numbers, which is ill-conditioned in any implementation
    side, width = 2 * pipeline.unet.config.sample_size, pipeline.unet.config.cross_attention_dim
    sample = torch.randn(1, 4, NUM_FRAMES, side, side, generator=generator)
    return sample, torch.randn(1, 77, width, generator=generator)


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    return float((output.double() - reference).norm() / reference.norm())


def original_module(directory: Path, kind: str) -> dict[str, torch.Tensor]:
    file = directory / f"{kind}.safetensors"
    recipe.write_motion_module(file, recipe.SMALL, kind)
    return load_file(file)


@pytest.mark.parametrize("kind", KINDS)
def test_the_unet_computes_the_same_as_the_reference(
    pipeline: Pipeline, random_weights: Path, stages: Stages, tmp_path: Path, kind: str
) -> None:
    checkpoint = load_file(random_weights / "checkpoints" / CHECKPOINTS[0])
    reference = ReferenceUNet(checkpoint, original_module(tmp_path, kind), inflated_groupnorm=KINDS[kind])
    sample, text = sample_and_text(pipeline)
    expected = reference(sample, TIMESTEP, text)

    if kind not in MOTION_MODULES:  # a user's own, under a documented name
        recipe.write_motion_module(tmp_path / "motion_modules" / "mm_sd_v15.ckpt", recipe.SMALL, kind)
        pipeline, kind = Pipeline(store_of(tmp_path, random_weights), CPU), "mm_sd_v15"
    pipeline.load(CHECKPOINTS[0], kind, stages)
    with torch.inference_mode():
        output = pipeline.unet(sample, TIMESTEP, text.repeat_interleave(NUM_FRAMES, dim=0)).sample

    # The original's code differs from the reference by 8e-6 at best (float32, another network).
    assert relative_error(output, expected) < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_norms_compute_something_else(
    pipeline: Pipeline, random_weights: Path, tmp_path: Path, kind: str
) -> None:
    """This is why the axes of the norms are set: with diffusers' own the error is thousands of times larger."""
    checkpoint = load_file(random_weights / "checkpoints" / CHECKPOINTS[0])
    sample, text = sample_and_text(pipeline)
    reference = ReferenceUNet(checkpoint, original_module(tmp_path, kind), inflated_groupnorm=KINDS[kind])
    expected = reference(sample, TIMESTEP, text)

    recipe.write_motion_module(tmp_path / kind, recipe.SMALL, kind)
    unet = UNet2DConditionModel.from_single_file(
        str(random_weights / "checkpoints" / CHECKPOINTS[0]),
        config=str(random_weights / "stable-diffusion-v1-5"),
        subfolder="unet",
        local_files_only=True,
    )
    unchanged = UNetMotionModel.from_unet2d(unet, MotionAdapter.from_pretrained(tmp_path / kind)).eval()
    with torch.inference_mode():
        output = unchanged(sample, TIMESTEP, text.repeat_interleave(NUM_FRAMES, dim=0)).sample

    assert relative_error(output, expected) > 0.02
