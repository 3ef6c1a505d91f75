"""LaMa computes what its definition says and fills the band, all else stays; its checkpoint is read, not executed."""

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
    """Write a state as the published file has it, and return a store that has the file."""
    file = directory / LAMA
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {f"generator.{key}": tensor for key, tensor in state.items()}}, file)
    return store_of(directory)


SMALL = Size(4, 2)


def random_state(size: Size = SMALL) -> State:
    """A generator's state, every value random, also the norms' and their statistics."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, tensor in recipe.state(size).items():
        if tensor.ndim == 4:
            state[key] = 2**0.5 * tensor
        elif tensor.ndim == 1:
            values = torch.rand(tensor.shape, generator=generator)
            # each channel is scaled by about 1 and moved by up to a half
            state[key] = values + 0.5 if key.endswith(("weight", "running_var")) else values - 0.5
        else:
            state[key] = tensor
    return state


def random_pictures(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(1))


def middle(pictures: torch.Tensor) -> torch.Tensor:
    """A mask that is 1 in a rectangle."""
    mask = torch.zeros_like(pictures[:, :1])
    mask[:, :, 10:20, 4:30] = 1
    return mask


def random_frames(count: int, height: int = 64, width: int = 72) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (40, 24)])  # with and without a wave of half the width
def test_pictures_are_those_of_a_second_implementation(tmp_path: Path, height: int, width: int) -> None:
    state = random_state()
    lama = load_lama(save(state, tmp_path), CPU.device)
    pictures = random_pictures(2, height, width)
    mask = middle(pictures)
    with torch.inference_mode():
        ours = lama(pictures, mask)
    theirs = reference_lama(state, pictures, mask)
    assert theirs.std() > 0.1  # no plain picture, which anything would agree with
    torch.testing.assert_close(ours.double(), torch.where(mask > 0, theirs, pictures.double()), rtol=1e-4, atol=1e-5)
    assert (theirs - pictures)[mask.expand_as(pictures) > 0].abs().max() > 0.1


def test_without_a_mask_the_picture_stays_exactly(tmp_path: Path) -> None:
    lama = load_lama(save(random_state(), tmp_path), CPU.device)
    pictures = random_pictures(2, 32, 48)
    with torch.inference_mode():
        assert torch.equal(lama(pictures, torch.zeros_like(pictures[:, :1])), pictures)


def test_what_is_under_the_mask_is_not_seen(tmp_path: Path) -> None:
    lama = load_lama(save(random_state(), tmp_path), CPU.device)
    pictures = random_pictures(1, 32, 48)
    mask = middle(pictures)
    with torch.inference_mode():
        assert torch.equal(lama(pictures * (1 - mask), mask) * mask, lama(pictures, mask) * mask)


def test_it_has_the_published_networks_parameters() -> None:
    with torch.device("meta"):
        lama = Lama()
    # 50,975,875 parameters and 989 entries of the state: counted on utils/lama.py of
    # anotherjesse/cog-text2video@14013b6, which reads the published file
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
    ("changed", "message"),
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
    ids=["missing", "the one that tells the width", "extra", "misshapen", "of something else"],
)
def test_a_wrong_key_is_named(tmp_path: Path, changed: Callable[[State], State], message: str) -> None:
    state = changed(random_state(Size(64, 2) if "convl2l" in message and "lacks" in message else SMALL))
    with pytest.raises(WeightsError, match=message):
        load_lama(save(state, tmp_path), CPU.device)


def test_the_generator_alone_as_safetensors_is_read_too(tmp_path: Path) -> None:
    state = random_state()
    save(state, tmp_path / "published")
    (tmp_path / "own" / LAMA).parent.mkdir(parents=True)
    save_file(state, tmp_path / "own" / LAMA)
    loaded = [load_lama(store_of(tmp_path / name), CPU.device).state_dict() for name in ("published", "own")]
    for key, tensor in state.items():
        assert torch.equal(loaded[0][key], tensor)
        assert torch.equal(loaded[1][key], tensor)


@pytest.mark.parametrize("height", [256, 320, 576, 300, 257])
def test_the_band_covers_the_letters_with_a_margin(height: int) -> None:
    top, bottom = band(height)
    # RyannDaGreat/remove_watermark@9b4ace0 watermark_extraction: the letters lie at 0.577 to 0.726 of the height
    assert top <= 0.55 * height < top + 1
    assert bottom - 1 < 0.76 * height <= bottom
    assert top + 0.02 * height < 0.577 * height
    assert bottom - 0.02 * height > 0.726 * height


def test_the_band_has_no_row_more_than_it_must() -> None:
    # floating point has 0.55 * 100 = 55.00000000000001
    assert band(100) == (55, 76)


@pytest.mark.parametrize(("height", "width"), [(64, 72), (61, 75), (256, 33)], ids=["whole", "odd", "narrow"])
def test_only_the_band_changes(tmp_path: Path, height: int, width: int) -> None:
    frames = random_frames(2, height, width)
    before = frames.copy()
    made = np.stack(list(Watermark(save(random_state(), tmp_path), CPU).remove(frames)))
    top, bottom = band(height)
    assert np.array_equal(frames, before)  # nor does what was given
    assert made.shape == frames.shape
    assert made.dtype == np.uint8
    assert np.array_equal(made[:, :top], frames[:, :top])
    assert np.array_equal(made[:, bottom:], frames[:, bottom:])
    assert (made[:, top:bottom] != frames[:, top:bottom]).mean() > 0.9


def test_frames_come_one_by_one_and_are_the_same_whatever_is_beside_them(tmp_path: Path) -> None:
    watermark = Watermark(save(random_state(), tmp_path), CPU)
    frames = random_frames(3)
    drawn: list[int] = []

    def source() -> Any:
        for index, frame in enumerate(frames):
            drawn.append(index)
            yield frame

    made = watermark.remove(source())
    alone = []
    for index in range(3):
        alone.append(next(watermark.remove([frames[index]])))
        assert np.array_equal(next(made), alone[-1])
        assert drawn == list(range(index + 1))


def test_weights_are_read_when_they_are_first_needed_and_once(tmp_path: Path) -> None:
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


def spreading(colours: int = 3) -> State:
    """Weights set by hand: in every block a place takes the colour of the place above it, if that is brighter.

    Masked places are black, so colours run down into the mask from above: 8 rows of the picture with each block. What
    enlarges repeats pixels, and the sigmoid at the end has the slope 1 and the value 1/2 at 1/2.
    """
    state = recipe.state(Size(4, 3))
    for tensor in state.values():
        if tensor.ndim == 4:
            tensor.zero_()
    for colour in range(colours):
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


def test_text_in_a_flat_colour_is_painted_over_with_that_colour(tmp_path: Path) -> None:
    colour = (100, 140, 170)
    image = Image.new("RGB", (96, 64), colour)
    ImageDraw.Draw(image).text((10, 37), "shutterstock", fill=(255, 255, 255))
    frame = np.asarray(image)
    top, bottom = band(64)
    changed = np.abs(frame.astype(int) - colour).max(axis=2) > 100
    assert changed[top:bottom].any()  # the text is there, and only in the band
    assert not changed[:top].any()
    assert not changed[bottom:].any()
    (made,) = Watermark(save(spreading(), tmp_path), CPU).remove([frame])
    # The sigmoid bends: at 100/255, 1/2 - 0.108, it is off by (4 * 0.108)^3 / 48, less than a level.
    assert np.abs(made.astype(int) - colour).max() <= 2
