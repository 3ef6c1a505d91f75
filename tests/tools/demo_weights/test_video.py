"""zeroscope's UNet: how it begins, and what of it is trained."""

from __future__ import annotations

import torch
from demo_weights.train import video


def test_the_unet_begins_as_the_identity() -> None:
    latents = torch.randn(1, 4, 3, 16, 16)
    with torch.inference_mode():
        answer = video.build()(latents, 961, torch.randn(1, 77, 64)).sample
    # what the caption asks for at the highest level is a twentieth of the input: the way through must be far better
    assert (answer - latents).square().mean() < 1e-4


def test_layers_that_are_passed_by_come_back() -> None:
    unet = video.build()
    torch.nn.init.ones_(unet.transformer_in.proj_out.bias)  # now it changes what it gets
    latents, prompt_embeds = torch.randn(1, 4, 2, 16, 16), torch.randn(1, 77, 64)
    with torch.inference_mode():
        whole = unet(latents, 500, prompt_embeds).sample
        with video.only(unet, video.over_frames(unet)):
            without = unet(latents, 500, prompt_embeds).sample
        again = unet(latents, 500, prompt_embeds).sample
    assert not torch.allclose(without, whole)
    assert torch.equal(again, whole)


def test_convolutions_over_frames_give_what_pytorchs_own_give() -> None:
    convolutions = [module for module in video.build().modules() if isinstance(module, torch.nn.Conv3d)]
    assert convolutions
    for convolution in convolutions:
        x = torch.randn(2, convolution.in_channels, 5, 3, 4)
        torch.nn.init.normal_(convolution.weight)  # the last ones begin as nothing
        own = torch.nn.Conv3d.forward(convolution, x)
        assert torch.allclose(convolution(x), own, atol=1e-4)
