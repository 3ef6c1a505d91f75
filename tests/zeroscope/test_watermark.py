"""What LaMa computes compared with its definition, which files it loads, and which rows of a frame it fills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from random_weights import lama as recipe
from reference_lama import reference_lama
from safetensors.torch import save_file
from stores import CPU
from videokit.errors import WeightsError
from videokit.weights.store import WeightStore
from zeroscope.lama import Lama, Size, load_lama
from zeroscope.watermark import Watermark, band
from zeroscope.weights import FILES, LAMA

State = dict[str, torch.Tensor]


def store_of(directory: Path, cache: Path | None = None) -> WeightStore:
    return WeightStore(FILES, directories=[directory], cache=cache, offline=True)


def save(state: State, directory: Path) -> WeightStore:
    """Write a state in the layout of the published file, and return a store with the file."""
    file = directory / LAMA
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {f"generator.{key}": tensor for key, tensor in state.items()}}, file)
    return store_of(directory)


SMALL = Size(4, 2)


def random_state(size: Size = SMALL) -> State:
    """Return a generator's state with random values, those of the norms included."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, tensor in recipe.state(size).items():
        if tensor.ndim == 4:
            state[key] = 2**0.5 * tensor
        elif tensor.ndim == 1:
            values = torch.rand(tensor.shape, generator=generator)
            # scales near 1, and shifts of up to a half
            state[key] = values + 0.5 if key.endswith(("weight", "running_var")) else values - 0.5
        else:
            state[key] = tensor
    return state


def random_images(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(1))


def rectangular_mask(images: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros_like(images[:, :1])
    mask[:, :, 10:20, 4:30] = 1
    return mask


def random_frames(count: int, height: int = 64, width: int = 72) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (40, 24)])  # with and without the highest frequency
def test_images_equal_those_of_a_second_implementation(tmp_path: Path, height: int, width: int) -> None:
    state = random_state()
    lama = load_lama(save(state, tmp_path), CPU.device)
    images = random_images(2, height, width)
    mask = rectangular_mask(images)
    with torch.inference_mode():
        result = lama(images, mask)
    expected = reference_lama(state, images, mask)
    assert expected.std() > 0.1  # not a plain image
    torch.testing.assert_close(result.double(), torch.where(mask > 0, expected, images.double()), rtol=1e-4, atol=1e-5)
    assert (expected - images)[mask.expand_as(images) > 0].abs().max() > 0.1


def test_without_a_mask_the_image_is_unchanged(tmp_path: Path) -> None:
    lama = load_lama(save(random_state(), tmp_path), CPU.device)
    images = random_images(2, 32, 48)
    with torch.inference_mode():
        assert torch.equal(lama(images, torch.zeros_like(images[:, :1])), images)


def test_the_pixels_under_the_mask_do_not_change_the_result(tmp_path: Path) -> None:
    lama = load_lama(save(random_state(), tmp_path), CPU.device)
    images = random_images(1, 32, 48)
    mask = rectangular_mask(images)
    with torch.inference_mode():
        assert torch.equal(lama(images * (1 - mask), mask) * mask, lama(images, mask) * mask)


def test_the_network_has_the_published_parameters() -> None:
    with torch.device("meta"):
        lama = Lama()
    # counted on anotherjesse/cog-text2video@14013b6 utils/lama.py, which loads the published file
    assert sum(p.numel() for p in lama.parameters()) == 50_975_875
    keys = lama.state_dict().keys()
    assert len(keys) == 989
    assert {
        "model.1.bn_l.num_batches_tracked",
        "model.4.ffc.convl2g.weight",
        "model.22.conv2.ffc.convg2g.fu.conv_layer.weight",
        "model.22.conv2.ffc.convg2g.conv1.1.running_var",
        "model.24.weight",
        "model.31.running_mean",
        "model.34.bias",
    } <= keys


def without(key: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if name != key}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("model.6.conv1.bn_g.running_var"), r"lacks model\.6\.conv1\.bn_g\.running_var"),
        (without("model.1.ffc.convl2l.weight"), r"lacks model\.1\.ffc\.convl2l\.weight"),
        (
            lambda state: state | {"model.99.bias": torch.zeros(1)},
            r"unexpected keys: model\.99\.bias; use a file for Lama",
        ),
        (
            lambda state: state | {"model.1.ffc.convl2l.weight": torch.zeros(4, 3, 7, 7)},
            r"model\.1\.ffc\.convl2l\.weight is \[4, 3, 7, 7\] instead of \[4, 4, 7, 7\]",
        ),
        (lambda _: {"weight": torch.zeros(1)}, "lacks 989 keys"),
    ],
    ids=["missing", "first layer missing", "unexpected", "misshapen", "another network"],
)
def test_a_missing_unexpected_or_misshapen_tensor_is_named(
    tmp_path: Path, edit: Callable[[State], State], message: str
) -> None:
    state = edit(random_state(Size(64, 2) if "convl2l" in message and "lacks" in message else SMALL))
    with pytest.raises(WeightsError, match=message):
        load_lama(save(state, tmp_path), CPU.device)


def test_the_generator_alone_as_safetensors_is_accepted(tmp_path: Path) -> None:
    state = random_state()
    save(state, tmp_path / "published")
    (tmp_path / "converted" / LAMA).parent.mkdir(parents=True)
    save_file(state, tmp_path / "converted" / LAMA)
    states = [load_lama(store_of(tmp_path / name), CPU.device).state_dict() for name in ("published", "converted")]
    for key, tensor in state.items():
        assert torch.equal(states[0][key], tensor)
        assert torch.equal(states[1][key], tensor)


@pytest.mark.parametrize("height", [256, 320, 576, 300, 257])
def test_the_band_covers_the_letters_with_a_margin(height: int) -> None:
    top, bottom = band(height)
    # RyannDaGreat/remove_watermark@9b4ace0 watermark_extraction: the letters are at 0.577 to 0.726 of the height
    assert top <= 0.55 * height < top + 1
    assert bottom - 1 < 0.76 * height <= bottom
    assert top + 0.02 * height < 0.577 * height
    assert bottom - 0.02 * height > 0.726 * height


def test_the_band_is_not_widened_by_rounding_errors() -> None:
    # in floating point 0.55 * 100 is 55.00000000000001
    assert band(100) == (55, 76)


@pytest.mark.parametrize(("height", "width"), [(64, 72), (61, 75), (256, 33)], ids=["multiples of 8", "odd", "narrow"])
def test_only_the_band_changes(tmp_path: Path, height: int, width: int) -> None:
    frames = random_frames(2, height, width)
    before = frames.copy()
    result = np.stack(list(Watermark(save(random_state(), tmp_path), CPU).remove(frames)))
    top, bottom = band(height)
    assert np.array_equal(frames, before)
    assert result.shape == frames.shape
    assert result.dtype == np.uint8
    assert np.array_equal(result[:, :top], frames[:, :top])
    assert np.array_equal(result[:, bottom:], frames[:, bottom:])
    assert (result[:, top:bottom] != frames[:, top:bottom]).mean() > 0.9


def test_frames_are_filled_one_by_one_as_they_are_consumed(tmp_path: Path) -> None:
    watermark = Watermark(save(random_state(), tmp_path), CPU)
    frames = random_frames(3)
    consumed: list[int] = []

    def source() -> Any:
        for index, frame in enumerate(frames):
            consumed.append(index)
            yield frame

    results = watermark.remove(source())
    for index in range(3):
        (alone,) = watermark.remove([frames[index]])
        assert np.array_equal(next(results), alone)
        assert consumed == list(range(index + 1))


def test_the_weights_are_loaded_once_at_the_first_frame(tmp_path: Path) -> None:
    watermark = Watermark(store_of(tmp_path), CPU)
    assert list(watermark.remove([])) == []
    save(random_state(), tmp_path)
    frames = random_frames(1)
    (first,) = watermark.remove(frames)
    (tmp_path / LAMA).unlink()
    assert np.array_equal(next(watermark.remove(frames)), first)
    watermark.unload()
    with pytest.raises(WeightsError, match="Not on this machine"):
        next(watermark.remove(frames))


def copying_state() -> State:
    """Return a state with which each block gives every place the colour of the place above it, if that is brighter.

    Masked places are black, so each block copies colours 8 rows down into the mask. Layers that enlarge the image
    repeat pixels. The sigmoid at the end has slope 1 and value 1/2 at 1/2.
    """
    state = recipe.state(Size(4, 3))
    for tensor in state.values():
        if tensor.ndim == 4:
            tensor.zero_()
    for colour in range(3):
        state["model.1.ffc.convl2l.weight"][colour, colour, 3, 3] = 1
        for layer in (2, 3, 4):
            state[f"model.{layer}.ffc.convl2l.weight"][colour, colour, 1, 1] = 1
        for block in (5, 6, 7):
            above = state[f"model.{block}.conv1.ffc.convl2l.weight"][colour, colour]
            above[0, 1], above[1, 1] = 1, -1
            state[f"model.{block}.conv2.ffc.convl2l.weight"][colour, colour, 1, 1] = 1
        for layer in (9, 12, 15):
            state[f"model.{layer}.weight"][colour, colour, 1:, 1:] = 1
        state["model.19.weight"][colour, colour, 3, 3] = 4
    state["model.19.bias"][:] = -2
    return state


def test_text_on_a_plain_colour_is_filled_with_that_colour(tmp_path: Path) -> None:
    colour = (100, 140, 170)
    image = Image.new("RGB", (96, 64), colour)
    ImageDraw.Draw(image).text((10, 37), "shutterstock", fill=(255, 255, 255))
    frame = np.asarray(image)
    top, bottom = band(64)
    letters = np.abs(frame.astype(int) - colour).max(axis=2) > 100
    assert letters[top:bottom].any()  # the text is only in the band
    assert not letters[:top].any()
    assert not letters[bottom:].any()
    (result,) = Watermark(save(copying_state(), tmp_path), CPU).remove([frame])
    # The sigmoid is not linear: at 100/255, 1/2 - 0.108, its error is (4 * 0.108)^3 / 48, less than a level.
    assert np.abs(result.astype(int) - colour).max() <= 2
