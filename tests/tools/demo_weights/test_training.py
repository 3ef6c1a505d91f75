"""How the UNets begin: as the identity, on the models' schedules, each frame with its number."""

from __future__ import annotations

import torch
from demo_weights.train.denoiser import alpha_bars
from demo_weights.train.motion import _of, build


def test_the_unets_begin_as_the_identity() -> None:
    base, moving = build(sample_size=8)
    latents = torch.randn(1, 4, 16, 8, 8)
    prompt_embeds = torch.randn(16, 77, 64)
    with torch.inference_mode():
        still = base(latents[0].transpose(0, 1), 961, prompt_embeds).sample
        clip = moving(latents, 961, prompt_embeds).sample
    # what the caption asks for at the highest level is a twentieth of the input: the way through must be far better
    assert (still - latents[0].transpose(0, 1)).square().mean() < 1e-4
    assert (clip - latents).square().mean() < 1e-4


def test_the_base_and_the_moving_unet_share_their_parameters() -> None:
    base, moving = build(sample_size=8)
    theirs = dict(moving.named_parameters())
    assert all(theirs[name] is parameter for name, parameter in base.named_parameters())


def test_schedules_are_those_of_the_models() -> None:
    from diffusers import DDIMScheduler

    for name in ("linear", "scaled_linear"):
        theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=name).alphas_cumprod
        assert torch.allclose(alpha_bars(name), theirs)


def test_frames_keep_their_numbers_and_the_table_comes_back() -> None:
    _, moving = build(sample_size=8)
    latents, prompt_embeds = torch.randn(1, 4, 2, 8, 8), torch.randn(2, 77, 64)
    tables = {name: buffer.clone() for name, buffer in moving.named_buffers()}
    with _of(moving, [3, 15]):
        chosen = [buffer for name, buffer in moving.named_buffers() if name.endswith("pe")]
        assert all(buffer.shape[1] == 2 for buffer in chosen)
        moving(latents, 500, prompt_embeds)
    assert all(torch.equal(buffer, tables[name]) for name, buffer in moving.named_buffers())
