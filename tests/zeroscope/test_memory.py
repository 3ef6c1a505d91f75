"""The estimates of memory compared with allocations of the published architecture, and the bound on the frames."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet3DConditionModel
from random_weights import zeroscope as recipe
from random_weights.stable_diffusion import vae_config
from stores import CPU
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from videokit.errors import InvalidInput
from videokit.runtime import Stages
from zeroscope.inputs import Inputs
from zeroscope.memory import unet_bytes, vae_bytes
from zeroscope.pipeline import Pipeline

HALF = {"dtype": torch.float16, "device": "meta"}


class Allocations(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at the same time, without a module's parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.parameters = {id(p.untyped_storage()): p.untyped_storage() for p in module.parameters()}
        self.alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.current = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self.parameters or key in self.alive:
            return

        def release(_: object) -> None:
            del self.alive[key]
            self.current -= size

        self.alive[key] = weakref.ref(storage, release)
        self.current += size
        self.peak = max(self.peak, self.current)


@pytest.fixture
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace attention, which torch does not fuse on the meta device, by an allocation of its result alone."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query))


@pytest.fixture(scope="module")
def unet() -> UNet3DConditionModel:
    with torch.device("meta"):
        return nn.Module.to(UNet3DConditionModel.from_config(recipe.unet_config(recipe.FULL)), torch.float16)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    with torch.device("meta"):
        return nn.Module.to(AutoencoderKL.from_config(vae_config(recipe.FULL)), torch.float16)


@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize(
    ("frames", "width", "height", "guided"),
    [(24, 576, 320, True), (24, 576, 320, False), (30, 1024, 576, True), (1, 256, 256, True)],
)
def test_the_unet_takes_between_nine_tenths_and_all_of_the_estimate(
    unet: UNet3DConditionModel, frames: int, width: int, height: int, guided: bool
) -> None:
    batch = 2 if guided else 1
    with torch.no_grad(), Allocations(unet) as allocations:
        unet(torch.zeros(batch, 4, frames, height // 8, width // 8, **HALF), 1, torch.zeros(batch, 77, 1024, **HALF))
    estimate = unet_bytes(frames, width, height, guided=guided, head_width=64, itemsize=2)
    assert 0.9 * estimate < allocations.peak < estimate


@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize(("frames", "width", "height"), [(5, 576, 320), (1, 2048, 2048)])
def test_the_vae_takes_between_four_fifths_and_all_of_the_estimate(
    vae: AutoencoderKL, frames: int, width: int, height: int
) -> None:
    estimate = vae_bytes(frames, width, height, channels=128, itemsize=2)
    with torch.no_grad(), Allocations(vae) as decoding:
        vae.decode(torch.zeros(frames, 4, height // 8, width // 8, **HALF))
    with torch.no_grad(), Allocations(vae) as encoding:
        vae.encode(torch.zeros(frames, 3, height, width, **HALF))
    assert 0.8 * estimate < max(decoding.peak, encoding.peak) < estimate


def test_max_frames_is_valid_and_one_more_is_not(pipeline: Pipeline) -> None:
    inputs = Inputs("a cat", width=1024, height=1024)
    maximum = pipeline.max_frames(inputs)
    replace(inputs, num_frames=maximum).check(pipeline.max_frames)
    with pytest.raises(InvalidInput, match=rf"num_frames={maximum + 1} .*; try {maximum} "):
        replace(inputs, num_frames=maximum + 1).check(pipeline.max_frames)
    free = pipeline.models.on_device - pipeline.models.model_nbytes
    size = {"guided": True, "head_width": recipe.SMALL.head_width, "itemsize": 4}
    assert unet_bytes(maximum, 1024, 1024, **size) <= free < unet_bytes(maximum + 1, 1024, 1024, **size)


def test_guidance_or_twice_the_pixels_halve_max_frames(pipeline: Pipeline) -> None:
    maximum = pipeline.max_frames(Inputs("", width=512, height=512, guidance_scale=1))
    assert pipeline.max_frames(Inputs("", width=512, height=512)) == pytest.approx(maximum / 2, abs=1)
    assert pipeline.max_frames(Inputs("", width=1024, height=512, guidance_scale=1)) == pytest.approx(
        maximum / 2, abs=1
    )
    assert pipeline.max_frames(Inputs("", width=800_000, height=800_000)) == 0


def test_a_model_is_loaded_with_room_for_the_vae_if_that_takes_more_than_the_unet(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # for one large frame the UNet takes less
    rooms: list[int] = []
    monkeypatch.setattr(pipeline.models, "get", lambda _name, room: rooms.append(room))
    pipeline.load(Inputs("a cat", width=4096, height=4096, num_frames=1), Stages(CPU))
    assert rooms == [vae_bytes(1, 4096, 4096, channels=8, itemsize=4)]  # SMALL's VAE begins with 8 channels
