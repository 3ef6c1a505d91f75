"""A damaged weight of any network is an error that names the stage, not a black animation or a missed flag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_weights import broken
from pictures import natural
from sd_animation.inputs import Inputs
from sd_animation.interpolation import interpolate
from sd_animation.pipeline import Pipeline
from videokit.errors import NotFinite
from videokit.runtime import Stages
from videokit.video.frame_store import FrameStore
from waits import counted_waits

INPUTS = Inputs(
    "a red circle",
    "a blue square",
    width=128,
    height=128,
    num_animation_frames=2,
    num_interpolation_steps=2,
    num_inference_steps=2,
)


def clip_of(pipeline: Pipeline, directory: Path, inputs: Inputs = INPUTS) -> np.ndarray:
    with FrameStore(directory) as keyframes:
        latents = pipeline.animate(inputs, 11, Stages(pipeline.device), keyframes)
        return np.stack(list(pipeline.interpolate(inputs, latents, keyframes)))


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (lambda p: p.text_encoder.final_layer_norm.weight, torch.nan, "denoise: the latents"),
        (lambda p: p.unet.conv_in.bias, torch.inf, "denoise: the latents"),
        (lambda p: p.vae.decoder.conv_in.bias, torch.nan, "decode: the VAE's pictures"),
        (lambda p: p.film.fuse.output_conv.bias, torch.nan, "interpolate: FILM's frames"),
        (lambda p: p.film.fuse.output_conv.bias, torch.inf, "interpolate: FILM's frames"),  # white after clamping
        # the motion on the coarsest level, and on a finer one
        (lambda p: p.film.predict_flow._predictor._convs[4][0].bias, torch.nan, "interpolate: FILM's frames"),
        (lambda p: p.film.predict_flow._predictors[2]._convs[4][0].bias, torch.inf, "interpolate: FILM's frames"),
        (lambda p: p.safety_checker.network.visual_projection.weight, torch.nan, "safety checker: its scores"),
        (lambda p: p.safety_checker.network.concept_embeds, torch.nan, "safety checker: its scores"),
        (lambda p: p.safety_checker.network.concept_embeds_weights, torch.inf, "safety checker: its scores"),
        (lambda p: p.safety_checker.network.special_care_embeds, torch.nan, "safety checker: its scores"),
    ],
)
def test_a_weight_that_is_not_finite_is_an_error_and_does_not_change_the_next_clip(
    pipeline: Pipeline, tmp_path: Path, parameter: Callable[[Pipeline], torch.Tensor], value: float, message: str
) -> None:
    expected = clip_of(pipeline, tmp_path)
    with broken(parameter(pipeline), value), pytest.raises(NotFinite, match=f"^{message} are not finite"):
        clip_of(pipeline, tmp_path)
    assert np.array_equal(clip_of(pipeline, tmp_path), expected)


def test_frames_between_keyframes_are_checked_without_film_too(pipeline: Pipeline, tmp_path: Path) -> None:
    inputs = replace(INPUTS, film_interpolation=False)
    with FrameStore(tmp_path) as keyframes:
        latents = pipeline.animate(inputs, 11, Stages(pipeline.device), keyframes)
        frames = pipeline.interpolate(inputs, latents, keyframes)
        with broken(pipeline.vae.decoder.conv_out.bias), pytest.raises(NotFinite, match=r"^decode: the VAE's pictures"):
            list(frames)


def test_the_check_waits_for_the_device_once_a_picture_and_once_a_call_of_film(pipeline: Pipeline) -> None:
    frames = [frame.copy() for frame in natural(2, 128, 128)]
    with counted_waits() as waits:
        assert len(pipeline.safety_checker.flags(frames[:1])) == 1
    assert (waits.copies, waits.reads) == (1, 0)
    with counted_waits() as waits:
        assert len(list(interpolate(pipeline.film, frames, 2))) == 3
    assert (waits.copies, waits.reads) == (1, 0)
