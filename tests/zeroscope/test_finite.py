"""A damaged weight of any network is an error that names the stage; a VAE that overflows runs again in float32."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_weights import broken
from pictures import natural
from videokit.errors import NotFinite
from videokit.runtime import Device, Stages
from videokit.weights.store import WeightStore
from waits import counted_waits
from zeroscope.inputs import Inputs
from zeroscope.pipeline import Pipeline
from zeroscope.weights import FILES

INPUTS = Inputs("a red circle", "blue", num_frames=2, num_inference_steps=2, width=64, height=64, remove_watermark=True)


def clip_of(pipeline: Pipeline, inputs: Inputs) -> np.ndarray:
    (frames,) = pipeline.generate(inputs, 11, Stages(pipeline.device))
    return np.stack(list(frames))


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (lambda p: p.models.get("xl").text_encoder.final_layer_norm.weight, torch.nan, "denoise: the latents"),
        (lambda p: p.models.get("xl").unet.conv_in.bias, torch.inf, "denoise: the latents"),
        (lambda p: p.models.get("xl").vae.decoder.conv_in.bias, torch.nan, "decode: the VAE's pictures"),
        (lambda p: p.models.get("xl").vae.encoder.conv_in.bias, torch.nan, "init_video: the VAE's latents"),
        (lambda p: p.models.get("xl").vae.quant_conv.bias, torch.inf, "init_video: the VAE's latents"),
        (lambda p: p.watermark._load().model[1].ffc.convl2l.weight, torch.nan, "remove_watermark: LaMa's pictures"),
        # an infinity before the sigmoid, whose result is one colour
        (lambda p: p.watermark._load().model[-2].bias, torch.inf, "remove_watermark: LaMa's pictures"),
    ],
)
def test_a_weight_that_is_not_finite_is_an_error_and_does_not_change_the_next_clip(
    pipeline: Pipeline, video: Path, parameter: Callable[[Pipeline], torch.Tensor], value: float, message: str
) -> None:
    inputs = replace(INPUTS, init_video=video) if message.startswith("init_video") else INPUTS
    expected = clip_of(pipeline, inputs)
    with broken(parameter(pipeline), value), pytest.raises(NotFinite, match=f"^{message} are not finite"):
        clip_of(pipeline, inputs)
    assert np.array_equal(clip_of(pipeline, inputs), expected)


def test_the_check_waits_for_the_device_once_a_picture_of_lama(pipeline: Pipeline) -> None:
    frames = list(natural(2, 64, 64))
    list(pipeline.watermark.remove(frames[:1]))  # loads LaMa
    with counted_waits() as waits:
        assert len(list(pipeline.watermark.remove(frames))) == 2
    assert (waits.copies, waits.reads) == (2, 0)


def test_a_vae_that_overflows_in_float16_encodes_the_video_in_float32(
    random_weights: Path, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = WeightStore(FILES, directories=[random_weights], cache=None)
    half = Pipeline(store, Device(torch.device("cpu"), torch.float16))
    vae = half.models.get("xl").vae
    with torch.no_grad():
        weight = vae.encoder.conv_in.weight.float()
        vae.encoder.conv_in.weight.copy_(weight * 50_000 / weight.abs().max())
    inputs = replace(INPUTS, init_video=video, init_weight=1, remove_watermark=False)
    with caplog.at_level(logging.INFO, "videokit"):
        in_half = clip_of(half, inputs)
    assert "init_video: the VAE overflowed in float16, so it runs again in float32" in caplog.messages
    assert not [line for line in caplog.messages if line.startswith("decode: the VAE overflowed")]
    vae.float()
    assert np.abs(in_half.astype(int) - clip_of(half, inputs)).max() <= 3  # the decoder's precision
