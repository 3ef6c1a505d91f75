"""What FILM computes compared with its definition, and which weight files it loads or rejects."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_weights import film as recipe
from reference_film import reference_film
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sd_animation.film import Film, Widths, load_film, warp
from stores import CPU
from videokit.errors import WeightsError
from videokit.runtime import Device

FINEST_FLOW = "predict_flow._predictors.2._convs"
SHARED_FLOW = "predict_flow._predictor._convs"
FIRST_KEY = "extract.extract_sublevels.convs.0.0.conv.weight"
HALF_WAY = torch.tensor([0.5])


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Return a small file in the published layout with random values and flows of several pixels."""
    file = tmp_path / "film_net_fp16.safetensors"
    recipe.write(file, recipe.SMALL)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, tensor in sorted(load_file(file).items()):
        values = torch.randn(tensor.shape, generator=generator)
        # the deviation that leaky ReLUs preserve (He et al., arXiv 1502.01852, eq. 14)
        tensors[key] = values * (2 / 1.04 / tensor[0].numel()) ** 0.5 if key.endswith("weight") else 0.1 * values
    save_file(tensors, file)
    return file


def port_layout(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace(".conv.", ".0."): tensor for key, tensor in tensors.items()}


def random_images(count: int, height: int = 64, width: int = 128) -> torch.Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(1))


def frame_between(film: Film, start: torch.Tensor, stop: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return film.between(film.features(start), film.features(stop), time)


def averaging_film(set_values: Callable[[dict[str, torch.Tensor]], None] = lambda _: None) -> Film:
    """Return a FILM that averages the two warped images; all other parameters are 0, or as `set_values` sets them.

    Colours are never negative, so leaky ReLU does not change them.
    """
    film = Film(Widths(4, (4, 4, 4, 4))).requires_grad_(False)
    tensors = film.state_dict()
    for tensor in tensors.values():
        tensor.zero_()
    for colour in range(3):
        # channels on the finest level: 3 colours and 4 features of the first image, then of the second
        tensors["fuse.convs.3.1.0.weight"][colour, [colour, 7 + colour], 1, 1] = 0.5
        tensors["fuse.convs.3.2.0.weight"][colour, colour, 1, 1] = 1
        tensors["fuse.output_conv.weight"][colour, colour] = 1
    set_values(tensors)
    return film


@pytest.mark.parametrize("scale", [1.0, 10.0], ids=["unchanged", "ten times the motion"])
def test_frames_equal_those_of_a_second_implementation(published: Path, scale: float) -> None:
    tensors = load_file(published)
    for key in tensors:
        if "_convs.4." in key:
            tensors[key] *= scale
    save_file(tensors, published)
    start, stop = random_images(4).split(2)
    times = torch.tensor([0.5, 0.3])
    film = load_film(published, CPU)
    frames = frame_between(film, start, stop, times)
    with torch.inference_mode():
        flow = film.predict_flow(film.features(start), film.features(stop))[0]
    assert flow.abs().max() > 3  # pixels
    for index, time in enumerate(times.tolist()):
        pair = start[index : index + 1], stop[index : index + 1]
        expected = reference_film(tensors, *pair, time)
        assert expected.std() > 0.1  # a plain frame would hide where pixels come from
        torch.testing.assert_close(frames[index : index + 1].double(), expected.clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_both_layouts_give_the_same_frame(published: Path, tmp_path: Path) -> None:
    port = tmp_path / "film_net.pt"
    torch.save(port_layout(load_file(published)), port)
    start, stop = random_images(2).split(1)
    one, other = (frame_between(load_film(file, CPU), start, stop, HALF_WAY) for file in (published, port))
    assert torch.equal(one, other)


def test_a_file_of_the_real_size_has_as_many_tensors_and_bytes_as_the_published_one(tmp_path: Path) -> None:
    file = tmp_path / "film_net_fp16.safetensors"
    recipe.write(file, recipe.FULL)
    # Comfy-Org/frame_interpolation lists 68,882,302 bytes for its film_net_fp16.safetensors. A key of another length
    # would change the size.
    assert file.stat().st_size == 68_882_302
    with safe_open(file, framework="pt") as tensors:
        keys = tensors.keys()
        assert len(keys) == 82
        # the key by which ComfyUI recognises FILM
        assert FIRST_KEY in keys
    assert sum(p.numel() for p in load_film(file, CPU).parameters()) == 34_436_667


def test_the_random_weights_are_reproducible_and_fade(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for file in files:
        recipe.write(file, recipe.SMALL)
    assert files[0].read_bytes() == files[1].read_bytes()
    start, stop = torch.tensor([0.2, 0.6]).view(2, 1, 1, 1, 1).expand(2, 1, 3, 64, 64)
    frame = frame_between(load_film(files[0], CPU), start, stop, HALF_WAY)
    torch.testing.assert_close(frame, torch.full_like(frame, 0.4), rtol=0, atol=0.1)


@pytest.mark.parametrize("layout", [dict, port_layout], ids=["published", "port"])
def test_a_missing_tensor_is_named_by_its_key_in_the_file(published: Path, layout: Callable[..., dict]) -> None:
    tensors = layout(load_file(published))
    missing = next(key for key in tensors if "fuse.convs.2.1" in key)
    del tensors[missing]
    save_file(tensors, published)
    with pytest.raises(WeightsError, match=f"lacks {missing}"):
        load_film(published, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # the width of the layers is read from this tensor
        ({FIRST_KEY: None}, f"lacks {FIRST_KEY}; "),
        ({"fuse.convs.4.0.conv.weight": (1,)}, "unexpected keys: fuse.convs.4.0.conv.weight; use a file for Film"),
        ({"fuse.output_conv.weight": (3, 5, 1, 1)}, "fuse.output_conv.weight is [3, 5, 1, 1] instead of [3, 4, 1, 1]"),
    ],
)
def test_a_file_with_other_tensors_is_rejected(
    published: Path, changes: dict[str, tuple[int, ...] | None], message: str
) -> None:
    tensors = load_file(published)
    for key, shape in changes.items():
        tensors.pop(key, None)
        if shape:
            tensors[key] = torch.zeros(shape)
    save_file(tensors, published)
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_film(published, CPU)


def test_a_file_of_another_network_is_rejected(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="lacks 82 keys"):
        load_film(tmp_path / "other.safetensors", CPU)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (0, 2), (-5, 1), (40, -40)])
def test_a_warp_by_whole_pixels_shifts_the_image_and_repeats_its_border(dx: int, dy: int) -> None:
    image = random_images(1, 20, 30)
    flow = torch.tensor([dx, dy]).float().view(1, 2, 1, 1).expand(1, 2, 20, 30)
    # pixel (x, y) is the image's at (x + dx, y + dy)
    columns = [min(max(x + dx, 0), 29) for x in range(30)]
    rows = [min(max(y + dy, 0), 19) for y in range(20)]
    torch.testing.assert_close(warp(image, flow), image[:, :, rows][:, :, :, columns], rtol=0, atol=1e-5)


def test_a_warp_by_half_a_pixel_averages_two_pixels() -> None:
    image = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)
    flow = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    torch.testing.assert_close(warp(image, flow)[0, 0, 0], torch.tensor([0.5, 0.5, 0.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_wide_image_in_half_precision_is_warped_to_the_right_pixel(dtype: torch.dtype) -> None:
    # Columns alternate, so an error of one pixel gives the opposite colour. Between 512 and 1024 bfloat16 has only
    # every fourth integer.
    stripes = (torch.arange(1024) % 2).to(dtype).expand(1, 1, 2, 1024)
    flow = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 1024)
    warped = warp(stripes, flow)
    assert warped.dtype == dtype
    torch.testing.assert_close(warped[..., :-1], stripes[..., 1:], rtol=0, atol=1e-3)


def test_half_precision_gives_nearly_the_same_frame(published: Path) -> None:
    recipe.write(published, recipe.SMALL)  # with little motion, because motion magnifies rounding errors
    half = load_film(published, Device(torch.device("cpu"), torch.bfloat16))
    start, stop = random_images(2).split(1)
    with torch.inference_mode():
        pyramids = half.features(start.bfloat16()), half.features(stop.bfloat16())
        assert all(flow.dtype == torch.float32 for flow in half.predict_flow(*pyramids))
        frame = half.between(*pyramids, HALF_WAY)
    assert frame.dtype == torch.bfloat16
    expected = frame_between(load_film(published, CPU), start, stop, HALF_WAY)
    # bfloat16 has 8 significant bits, and a frame has 256 levels
    assert (frame.float() - expected).abs().mean() < 1 / 256


def test_without_motion_the_frame_between_is_the_mean_of_both() -> None:
    start, stop = random_images(2).split(1)
    torch.testing.assert_close(
        frame_between(averaging_film(), start, stop, HALF_WAY), (start + stop) / 2, rtol=0, atol=1e-4
    )


def flow_by_blue(level: str, pixels: float) -> Callable[[dict[str, torch.Tensor]], None]:
    """Return a function that makes a flow predictor predict `pixels` to the right where blue rises by 1.

    Channel 0 of the features is blue. Channels 0 and 1 of the predictor are the rise and the fall of blue. Leaky ReLU
    multiplies negative values by 0.2, four times, so their difference is (1 + 0.2^4) x for a rise of x of either sign.
    """

    def set_values(tensors: dict[str, torch.Tensor]) -> None:
        tensors["extract.extract_sublevels.convs.0.0.0.weight"][0, 2, 1, 1] = 1
        tensors["extract.extract_sublevels.convs.0.1.0.weight"][0, 0, 1, 1] = 1
        first, second, third, fourth, head = (tensors[f"{level}.{layer}.0.weight"] for layer in range(5))
        features = first.shape[1] // 2
        for channel, sign in enumerate((1, -1)):
            first[channel, 0, 1, 1], first[channel, features, 1, 1] = -sign, sign
            second[channel, channel, 1, 1] = third[channel, channel, 1, 1] = 1
            fourth[channel, channel] = 1
            head[0, channel] = sign * pixels / (1 + 0.2**4)

    return set_values


@pytest.mark.parametrize(
    ("level", "pixels"),
    # the shared predictor adds its flow on levels 6 to 3: 1 + 2 + 4 + 8 = 15 on level 3, and 8 times that on level 0
    [(FINEST_FLOW, 12.0), (SHARED_FLOW, 12.0 / 120)],
    ids=["finest level", "coarse levels"],
)
@pytest.mark.parametrize(("time", "moved"), [(0.5, 6), (1 / 3, 4), (0.25, 3)])
def test_a_moving_square_is_at_the_place_of_the_requested_time(
    level: str, pixels: float, time: float, moved: int
) -> None:
    # Blue rises from 0 to 1 everywhere, so the forward flow is 12 pixels to the right and the backward flow 12 to the
    # left. At time t the first image is sampled 12 t to the left and the second 12 (1 - t) to the right, and both have
    # the square in the same place.
    film = averaging_film(flow_by_blue(level, pixels))
    start, stop, expected = torch.zeros(3, 1, 3, 128, 128)
    for image, place in ((start, 40), (stop, 52), (expected, 40 + moved)):
        image[:, 0, 50:70, place : place + 16] = 1
    stop[:, 2], expected[:, 2] = 1, 0.5  # blue fades
    frame = frame_between(film, start, stop, torch.tensor([time]))
    torch.testing.assert_close(frame, expected, rtol=0, atol=1e-3)
