"""What a prediction takes is what the published architecture allocates, and so is the bound on the frames."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet3DConditionModel
from random_weights import zeroscope as recipe
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
    """Counts the bytes of all tensors alive at once, but for a module's own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.known = {id(p.untyped_storage()): p.untyped_storage() for p in module.parameters()}
        self.alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self.known or key in self.alive:
            return

        def gone(_: object) -> None:
            del self.alive[key]
            self.now -= size

        self.alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


@pytest.fixture
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has none for meta tensors; that of real devices allocates its result and next to nothing else."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query))


@pytest.fixture(scope="module")
def unet() -> UNet3DConditionModel:
    with torch.device("meta"):
        return nn.Module.to(UNet3DConditionModel.from_config(recipe.unet_config(recipe.FULL)), torch.float16)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    with torch.device("meta"):
        return nn.Module.to(AutoencoderKL.from_config(recipe.vae_config(recipe.FULL)), torch.float16)


@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize(
    ("frames", "width", "height", "guided"),
    [(24, 576, 320, True), (24, 576, 320, False), (30, 1024, 576, True), (1, 256, 256, True)],
)
def test_the_unet_takes_what_is_said_and_at_most_a_tenth_less(
    unet: UNet3DConditionModel, frames: int, width: int, height: int, guided: bool
) -> None:
    batch = 2 if guided else 1
    with torch.no_grad(), Allocations(unet) as allocations:
        unet(torch.zeros(batch, 4, frames, height // 8, width // 8, **HALF), 1, torch.zeros(batch, 77, 1024, **HALF))
    said = unet_bytes(frames, width, height, guided=guided, head_width=64, itemsize=2)
    assert 0.9 * said < allocations.peak < said


@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize(("frames", "width", "height"), [(5, 576, 320), (1, 2048, 2048)])
def test_the_vae_takes_what_is_said_and_at_most_a_fifth_less(
    vae: AutoencoderKL, frames: int, width: int, height: int
) -> None:
    said = vae_bytes(frames, width, height, channels=128, itemsize=2)
    with torch.no_grad(), Allocations(vae) as decoding:
        vae.decode(torch.zeros(frames, 4, height // 8, width // 8, **HALF))
    with torch.no_grad(), Allocations(vae) as encoding:
        vae.encode(torch.zeros(frames, 3, height, width, **HALF))
    assert 0.8 * said < max(decoding.peak, encoding.peak) < said


def test_the_largest_count_that_is_named_is_taken_and_one_more_is_not(pipeline: Pipeline) -> None:
    inputs = Inputs("a cat", width=1024, height=1024)
    most = pipeline.max_frames(inputs)
    replace(inputs, num_frames=most).check(pipeline.max_frames)
    with pytest.raises(InvalidInput, match=rf"num_frames={most + 1} .*; try {most} "):
        replace(inputs, num_frames=most + 1).check(pipeline.max_frames)
    free = pipeline.models.on_device - pipeline.models.model_nbytes
    size = {"guided": True, "head_width": recipe.SMALL.head_width, "itemsize": 4}
    assert unet_bytes(most, 1024, 1024, **size) <= free < unet_bytes(most + 1, 1024, 1024, **size)


def test_guidance_and_pixels_halve_the_count(pipeline: Pipeline) -> None:
    one = pipeline.max_frames(Inputs("", width=512, height=512, guidance_scale=1))
    assert pipeline.max_frames(Inputs("", width=512, height=512)) == pytest.approx(one / 2, abs=1)
    assert pipeline.max_frames(Inputs("", width=1024, height=512, guidance_scale=1)) == pytest.approx(one / 2, abs=1)
    assert pipeline.max_frames(Inputs("", width=800_000, height=800_000)) == 0


def test_other_models_give_way_to_the_vae_where_that_takes_more(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one large picture is little to the UNet
    rooms: list[int] = []
    monkeypatch.setattr(pipeline.models, "get", lambda _name, room: rooms.append(room))
    pipeline.load(Inputs("a cat", width=4096, height=4096, num_frames=1), Stages(CPU))
    assert rooms == [vae_bytes(1, 4096, 4096, channels=8, itemsize=4)]  # SMALL's VAE begins with 8
