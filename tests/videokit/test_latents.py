"""Frames of a VAE that overflows, and errors for latents and pictures that are not finite."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from broken_weights import broken
from diffusers import AutoencoderKL
from videokit.errors import NotFinite
from videokit.latents import decode_latents
from videokit.seeds import noise
from videokit.video.frames import frames_from_tensor
from waits import counted_waits


@pytest.fixture
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    return AutoencoderKL(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, sample_size=8, **blocks).eval()


@pytest.fixture
def overflowing(vae: AutoencoderKL) -> AutoencoderKL:
    """Return a VAE whose activations are above float16's maximum, 65504, until a norm scales them."""
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(20_000)
    return vae.half()


LATENTS = noise((6, 4, 8, 8), seed=1)


def test_a_vae_that_overflows_in_float16_decodes_in_float32(
    overflowing: AutoencoderKL, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "videokit"):
        frames = list(decode_latents(overflowing, LATENTS, 2))
    assert caplog.messages == ["decode: the VAE overflowed in float16, so it runs again in float32"]
    in_float32 = copy.deepcopy(overflowing).float()
    with torch.inference_mode():
        pictures = torch.cat([in_float32.decode(part / 0.18215).sample for part in LATENTS.split(2)])
    assert np.array_equal(np.stack(frames), frames_from_tensor(pictures))
    assert np.stack(frames).std() > 10  # not one colour
    assert overflowing.dtype == torch.float16  # the next prediction starts as this one did


def test_a_later_batch_that_overflows_continues_in_float32(
    vae: AutoencoderKL, caplog: pytest.LogCaptureFixture
) -> None:
    latents = torch.cat([LATENTS, 1e5 * LATENTS, LATENTS])
    with caplog.at_level(logging.INFO, "videokit"):
        frames = list(decode_latents(vae.half(), latents, 6))
    assert len(frames) == 18
    assert len(caplog.messages) == 1
    differences = np.abs(np.stack(frames[:6]).astype(int) - np.stack(frames[12:]))
    assert differences.max() <= 2  # float16 against float32


def test_latents_that_are_not_finite_are_an_error_that_names_the_stage_and_the_way_out(vae: AutoencoderKL) -> None:
    latents = LATENTS.clone()
    latents[3, 0, 0, 0] = torch.nan
    frames = decode_latents(vae, latents, 1)
    assert len([next(frames) for _ in range(3)]) == 3
    with pytest.raises(NotFinite, match=r"^denoise: the latents are not finite \(NaN or infinity\), computed in float"):
        next(frames)
    with pytest.raises(NotFinite, match=r"float16; try other weights, such as another checkpoint, or set PRECISION=f"):
        list(decode_latents(vae.half(), torch.full_like(LATENTS, torch.inf), 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_vae_with_a_damaged_weight_is_an_error_in_every_precision(vae: AutoencoderKL, dtype: torch.dtype) -> None:
    vae.to(dtype)
    with broken(vae.decoder.conv_out.bias), pytest.raises(NotFinite, match=r"^decode: the VAE's pictures are"):
        list(decode_latents(vae, LATENTS, 2))
    assert len(list(decode_latents(vae, LATENTS, 2))) == 6


def test_the_check_waits_for_the_device_only_where_a_batch_is_copied_to_the_host(vae: AutoencoderKL) -> None:
    with counted_waits() as waits:
        assert len(list(decode_latents(vae, LATENTS, 2))) == 6
    assert (waits.copies, waits.reads) == (3, 0)  # three batches of pictures, with their flags
