"""FILM computes what its definition says, reads both layouts of its weights, and refuses what is not its own."""

from __future__ import annotations

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
HALF_WAY = torch.tensor([0.5])


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A file in the published layout: small, every value random, and flows of several pixels."""
    file = tmp_path / "film_net_fp16.safetensors"
    recipe.write(file, recipe.SMALL)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, tensor in sorted(load_file(file).items()):
        values = torch.randn(tensor.shape, generator=generator)
        # the deviation that keeps that of what goes through leaky ReLUs (He et al., arXiv 1502.01852, eq. 14)
        tensors[key] = values * (2 / 1.04 / tensor[0].numel()) ** 0.5 if key.endswith("weight") else 0.1 * values
    save_file(tensors, file)
    return file


def port_layout(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace(".conv.", ".0."): tensor for key, tensor in tensors.items()}


def random_pictures(count: int, height: int = 64, width: int = 128) -> torch.Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(1))


def made(film: Film, start: torch.Tensor, stop: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return film.between(film.features(start), film.features(stop), time)


def hand_set(values: Callable[[dict[str, torch.Tensor]], None] = lambda _: None) -> Film:
    """A FILM whose picture is the mean of the two warped ones, all else zero but for what `values` sets.

    Colours are never negative, so that leaky ReLU passes them on.
    """
    film = Film(Widths(4, (4, 4, 4, 4))).requires_grad_(False)
    tensors = film.state_dict()
    for tensor in tensors.values():
        tensor.zero_()
    for colour in range(3):
        # channels on the finest level: 3 colours and 4 features of the first picture, then of the second
        tensors["fuse.convs.3.1.0.weight"][colour, [colour, 7 + colour], 1, 1] = 0.5
        tensors["fuse.convs.3.2.0.weight"][colour, colour, 1, 1] = 1
        tensors["fuse.output_conv.weight"][colour, colour] = 1
    values(tensors)
    return film


@pytest.mark.parametrize("scale", [1.0, 10.0], ids=["as drawn", "ten times the motion"])
def test_pictures_are_those_of_a_second_implementation(published: Path, scale: float) -> None:
    tensors = load_file(published)
    for key in tensors:
        if "_convs.4." in key:
            tensors[key] *= scale
    save_file(tensors, published)
    start, stop = random_pictures(4).split(2)
    times = torch.tensor([0.5, 0.3])
    ours = made(load_film(published, CPU), start, stop, times)
    for index, time in enumerate(times.tolist()):
        pair = start[index : index + 1], stop[index : index + 1]
        theirs = reference_film(tensors, *pair, time)
        assert theirs.std() > 0.1  # it is no plain picture that would hide where pixels come from
        torch.testing.assert_close(ours[index : index + 1].double(), theirs.clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_the_test_weights_move_pixels_by_several(published: Path) -> None:
    film = load_film(published, CPU)
    with torch.inference_mode():
        start, stop = (film.features(picture) for picture in random_pictures(2).split(1))
        finest = film.predict_flow(start, stop)[0]
    assert finest.abs().max() > 3


def test_both_key_layouts_give_the_same_picture(published: Path, tmp_path: Path) -> None:
    ports = tmp_path / "film_net.pt"
    torch.save(port_layout(load_file(published)), ports)
    start, stop = random_pictures(2).split(1)
    one, other = (made(load_film(file, CPU), start, stop, HALF_WAY) for file in (published, ports))
    assert torch.equal(one, other)


def test_a_file_of_the_real_size_has_the_published_ones_tensors_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "film_net_fp16.safetensors"
    recipe.write(file, recipe.FULL)
    # 34,436,667 parameters in 82 tensors, which with their keys are 68,882,302 bytes: what
    # Comfy-Org/frame_interpolation lists for its film_net_fp16.safetensors. A key of another length would show.
    assert file.stat().st_size == 68_882_302
    with safe_open(file, framework="pt") as tensors:
        keys = tensors.keys()
        assert len(keys) == 82
        # by which ComfyUI tells that a file is FILM's
        assert "extract.extract_sublevels.convs.0.0.conv.weight" in keys
    assert sum(p.numel() for p in load_film(file, CPU).parameters()) == 34_436_667


def test_the_random_weights_are_the_same_every_time_and_fade(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for file in files:
        recipe.write(file, recipe.SMALL)
    assert files[0].read_bytes() == files[1].read_bytes()
    start, stop = torch.tensor([0.2, 0.6]).view(2, 1, 1, 1, 1).expand(2, 1, 3, 64, 64)
    picture = made(load_film(files[0], CPU), start, stop, HALF_WAY)
    torch.testing.assert_close(picture, torch.full_like(picture, 0.4), rtol=0, atol=0.1)


@pytest.mark.parametrize("layout", [dict, port_layout], ids=["published", "port"])
def test_a_missing_key_is_named_as_the_file_would_have_it(published: Path, layout: Callable[..., dict]) -> None:
    tensors = layout(load_file(published))
    missing = next(key for key in tensors if "fuse.convs.2.1" in key)
    del tensors[missing]
    save_file(tensors, published)
    with pytest.raises(WeightsError, match=f"lacks {missing}"):
        load_film(published, CPU)


def test_the_key_that_tells_the_width_may_be_the_missing_one(published: Path) -> None:
    tensors = load_file(published)
    del tensors["extract.extract_sublevels.convs.0.0.conv.weight"]
    save_file(tensors, published)
    with pytest.raises(WeightsError, match=r"lacks extract\.extract_sublevels\.convs\.0\.0\.conv\.weight"):
        load_film(published, CPU)


def test_an_unexpected_key_is_named(published: Path) -> None:
    save_file(load_file(published) | {"fuse.convs.4.0.conv.weight": torch.zeros(1)}, published)
    with pytest.raises(WeightsError, match=r"unexpected keys: fuse\.convs\.4\.0\.conv\.weight; use a file for Film"):
        load_film(published, CPU)


def test_a_misshapen_tensor_is_named(published: Path) -> None:
    tensors = load_file(published)
    tensors["fuse.output_conv.weight"] = torch.zeros(3, 5, 1, 1)
    save_file(tensors, published)
    with pytest.raises(WeightsError, match=r"fuse\.output_conv\.weight is \[3, 5, 1, 1\] instead of \[3, 4, 1, 1\]"):
        load_film(published, CPU)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="lacks 82 keys"):
        load_film(tmp_path / "other.safetensors", CPU)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (0, 2), (-5, 1), (40, -40)])
def test_a_warp_by_whole_pixels_moves_and_repeats_the_border(dx: int, dy: int) -> None:
    picture = random_pictures(1, 20, 30)
    flow = torch.tensor([dx, dy]).float().view(1, 2, 1, 1).expand(1, 2, 20, 30)
    # by hand: pixel (x, y) is the picture's at (x + dx, y + dy)
    columns = [min(max(x + dx, 0), 29) for x in range(30)]
    rows = [min(max(y + dy, 0), 19) for y in range(20)]
    torch.testing.assert_close(warp(picture, flow), picture[:, :, rows][:, :, :, columns], rtol=0, atol=1e-5)


def test_a_warp_by_half_a_pixel_takes_the_mean() -> None:
    picture = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)
    flow = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    torch.testing.assert_close(warp(picture, flow)[0, 0, 0], torch.tensor([0.5, 0.5, 0.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_wide_picture_in_half_precision_is_warped_to_the_right_pixel(dtype: torch.dtype) -> None:
    # Alternating columns are the hardest case: a place that is off by one pixel gives the opposite colour, and
    # between 512 and 1024 bfloat16 only has every fourth whole number.
    stripes = (torch.arange(1024) % 2).to(dtype).expand(1, 1, 2, 1024)
    flow = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 1024)
    warped = warp(stripes, flow)
    assert warped.dtype == dtype
    torch.testing.assert_close(warped[..., :-1], stripes[..., 1:], rtol=0, atol=1e-3)


def test_half_precision_gives_nearly_the_same_picture(published: Path) -> None:
    recipe.write(published, recipe.SMALL)  # a mild one: the motion of a random one magnifies every rounding
    half = load_film(published, Device(torch.device("cpu"), torch.bfloat16))
    start, stop = random_pictures(2).split(1)
    with torch.inference_mode():
        pyramids = half.features(start.bfloat16()), half.features(stop.bfloat16())
        assert all(flow.dtype == torch.float32 for flow in half.predict_flow(*pyramids))
        picture = half.between(*pyramids, HALF_WAY)
    assert picture.dtype == torch.bfloat16
    whole = made(load_film(published, CPU), start, stop, HALF_WAY)
    # bfloat16 has 8 bits: a level of the 256 that a picture has is 1/256
    assert (picture.float() - whole).abs().mean() < 1 / 256


def test_without_motion_the_picture_between_is_the_mean_of_both() -> None:
    start, stop = random_pictures(2).split(1)
    torch.testing.assert_close(made(hand_set(), start, stop, HALF_WAY), (start + stop) / 2, rtol=0, atol=1e-4)


def test_two_equal_pictures_have_that_picture_between_them() -> None:
    picture = random_pictures(1)
    torch.testing.assert_close(made(hand_set(), picture, picture, HALF_WAY), picture, rtol=0, atol=1e-4)


def flow_by_blue(level: str, pixels: float) -> Callable[[dict[str, torch.Tensor]], None]:
    """Set the weights of a flow predictor so that it sees motion by `pixels` to the right where blue rises by one.

    Channel 0 of the features is blue. The predictor's channels 0 and 1 are the rise and the fall of blue; leaky ReLU
    turns a negative x into 0.2 x, four times, so their difference is (1 + 0.2^4) x for a rise of x of either sign.
    """

    def values(tensors: dict[str, torch.Tensor]) -> None:
        tensors["extract.extract_sublevels.convs.0.0.0.weight"][0, 2, 1, 1] = 1
        tensors["extract.extract_sublevels.convs.0.1.0.weight"][0, 0, 1, 1] = 1
        first, second, third, fourth, head = (tensors[f"{level}.{layer}.0.weight"] for layer in range(5))
        features = first.shape[1] // 2
        for channel, sign in enumerate((1, -1)):
            first[channel, 0, 1, 1], first[channel, features, 1, 1] = -sign, sign
            second[channel, channel, 1, 1] = third[channel, channel, 1, 1] = 1
            fourth[channel, channel] = 1
            head[0, channel] = sign * pixels / (1 + 0.2**4)

    return values


@pytest.mark.parametrize(
    ("level", "pixels"),
    # the shared predictor adds its flow on levels 6 to 3: 1 + 2 + 4 + 8 = 15 on level 3, and 8 times that on level 0
    [(FINEST_FLOW, 12.0), (SHARED_FLOW, 12.0 / 120)],
    ids=["seen on the finest level", "seen on the coarse levels"],
)
@pytest.mark.parametrize(("time", "moved"), [(0.5, 6), (1 / 3, 4), (0.25, 3)])
def test_a_moving_square_is_on_its_way_by_the_time(level: str, pixels: float, time: float, moved: int) -> None:
    # Blue rises from 0 to 1 all over the picture, so the flow on is 12 to the right everywhere and the flow back 12
    # to the left, exactly: at time t, the first picture is read 12 t to the left and the second 12 (1 - t) to the
    # right, and both have the square in the same place.
    film = hand_set(flow_by_blue(level, pixels))
    start, stop, expected = torch.zeros(3, 1, 3, 128, 128)
    for picture, place in ((start, 40), (stop, 52), (expected, 40 + moved)):
        picture[:, 0, 50:70, place : place + 16] = 1
    stop[:, 2], expected[:, 2] = 1, 0.5  # blue itself fades
    picture = made(film, start, stop, torch.tensor([time]))
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-3)
