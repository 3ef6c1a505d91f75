"""A damaged or badly merged weight is an error that names the stage, not a black clip."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from animate_diff.inputs import Inputs
from animate_diff.pipeline import Pipeline
from broken_weights import broken
from videokit.errors import NotFinite
from videokit.runtime import Stages

INPUTS = Inputs("a red circle", "blue", num_inference_steps=2, seed=11)


def clip_of(pipeline: Pipeline) -> np.ndarray:
    return np.stack(list(pipeline.generate(INPUTS, 11, Stages(pipeline.device))))


@pytest.mark.parametrize(
    ("parameter", "stage"),
    [
        (lambda pipeline: pipeline.text_encoder.final_layer_norm.weight, "denoise"),
        (lambda pipeline: pipeline.unet.conv_in.bias, "denoise"),
        (lambda pipeline: next(iter(pipeline._motion_parameters.values())), "denoise"),
        (lambda pipeline: pipeline.vae.decoder.conv_in.bias, "decode"),
    ],
    ids=["text encoder", "UNet", "motion module", "VAE"],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_an_error_and_does_not_change_the_next_clip(
    pipeline: Pipeline, parameter: Callable[[Pipeline], torch.Tensor], stage: str, value: float
) -> None:
    expected = clip_of(pipeline)
    with broken(parameter(pipeline), value), pytest.raises(NotFinite, match=rf"^{stage}: .* try other weights"):
        clip_of(pipeline)
    assert np.array_equal(clip_of(pipeline), expected)
