"""A clip is filled with the right number of pictures, each frame stays, and FILM does no work twice."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pictures import natural
from random_weights import film as recipe
from safetensors.torch import load_file, save_file
from sd_animation import interpolation as module
from sd_animation.film import Film, load_film
from sd_animation.interpolation import interpolate
from stores import CPU

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sd_animation.film import Pyramid
    from videokit.video.frames import Frame

NS = [1, 2, 3, 4, 5, 8, 50]


class CountingFilm(Film):
    """FILM that notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(recipe.SMALL)
        self.feature_passes = self.calls = 0
        self.times: list[float] = []
        self.pyramids: list[weakref.ref[np.ndarray]] = []

    def features(self, pictures: torch.Tensor) -> Pyramid:
        self.feature_passes += len(pictures)
        pyramid = super().features(pictures)
        finest = pyramid[0].float().numpy().copy()
        self.pyramids.append(weakref.ref(finest))  # lives as long as any view of the tensor that is made of it
        return [torch.from_numpy(finest).to(pyramid[0].dtype), *pyramid[1:]]

    def between(self, start: Pyramid, stop: Pyramid, time: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.times += time.tolist()
        return super().between(start, stop, time)


@pytest.fixture(scope="module")
def film_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("film") / "film.safetensors"
    recipe.write(file, recipe.SMALL)
    return file


@pytest.fixture
def film(film_file: Path) -> CountingFilm:
    counting = CountingFilm().requires_grad_(False)
    counting.load_state_dict(load_film(film_file, CPU).state_dict())
    return counting


@pytest.fixture
def fading_film(film_file: Path, tmp_path: Path) -> Film:
    """A FILM without motion or disturbance: the picture between two is their mean, whatever the time."""
    tensors = load_file(film_file)
    kept = {f"fuse.{layer}.weight" for layer in ("convs.3.1.conv", "convs.3.2.conv", "output_conv")}
    for key, tensor in tensors.items():
        # what the recipe adds to the random values, 0.5 and 1, is rounded out of them
        tensors[key] = (2 * tensor[:3]).round() / 2 if key in kept else torch.zeros_like(tensor)
        if key in kept and "convs" in key:
            tensors[key] = torch.cat([tensors[key], torch.zeros_like(tensor[3:])])
    save_file(tensors, tmp_path / "fading.safetensors")
    return load_film(tmp_path / "fading.safetensors", CPU)


def frames(count: int, width: int = 64, height: int = 64) -> list[Frame]:
    return list(natural(count, width, height))


def plain(*levels: int) -> list[Frame]:
    return [np.full((64, 64, 3), level, np.uint8) for level in levels]


@pytest.mark.parametrize("n", NS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_clip_of_frames_becomes_so_many_pictures_and_every_frame_stays(film: Film, n: int, count: int) -> None:
    clip = frames(count)
    pictures = list(interpolate(film, clip, n))
    assert len(pictures) == (count - 1) * n + 1
    assert all(p.shape == (64, 64, 3) and p.dtype == np.uint8 for p in pictures)
    for index, frame in enumerate(clip):
        assert np.array_equal(pictures[index * n], frame)


def test_no_frames_are_no_pictures(film: Film) -> None:
    assert list(interpolate(film, [], 5)) == []


@pytest.mark.parametrize(
    ("n", "ends"),
    # the pictures in between that are themselves the end of a later pair: all but those made last, whose both
    # neighbours are there; counted by hand: 3 is 1 + 2, 5 is 2 + (1 + 2), 50 is 14 times 1 + 2 and twice 2 + 2
    [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (8, 3), (50, 49 - 18)],
)
def test_features_are_taken_once_of_each_picture_that_has_a_neighbour(film: CountingFilm, n: int, ends: int) -> None:
    list(interpolate(film, frames(3), n))
    assert len(film.times) == 2 * (n - 1)
    assert film.feature_passes == (0 if n == 1 else 3 + 2 * ends)


@pytest.mark.parametrize("n", [n for n in NS if n > 1])
def test_each_call_is_near_the_middle_and_at_it_for_powers_of_two(film: CountingFilm, n: int) -> None:
    list(interpolate(film, frames(2), n))
    assert all(1 / 3 - 1e-6 <= time <= 2 / 3 + 1e-6 for time in film.times)
    if n in (2, 4, 8):
        assert set(film.times) == {0.5}


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 12, 50])
def test_the_order_is_always_the_picture_nearest_to_a_middle(film: CountingFilm, n: int) -> None:
    # The port's way (dajes/frame-interpolation-pytorch@94a8bd6 inference.py), written anew: of all pictures that are
    # missing, make the one that is nearest to the middle of its neighbours, the earlier of two.
    there, expected = [0, n], []
    while len(there) <= n:
        missing = sorted(set(range(n)) - set(there))

        def time(index: int) -> float:
            start = max(i for i in there if i < index)
            stop = min(i for i in there if i > index)
            return (index - start) / (stop - start)

        chosen = min(missing, key=lambda index: (round(abs(time(index) - 0.5), 9), index))
        expected.append(time(chosen))
        there.append(chosen)
    list(interpolate(film, frames(2), n))
    assert sorted(film.times) == pytest.approx(sorted(expected))


def test_a_fade_over_a_power_of_two_is_even(fading_film: Film) -> None:
    pictures = list(interpolate(fading_film, plain(0, 240, 80), 8))
    # the mean of two always: a straight line from frame to frame
    expected = [*range(0, 240, 30), *range(240, 80, -20), 80]
    assert [int(p[32, 32, 0]) for p in pictures] == expected
    assert all((p == p[32, 32]).all() for p in pictures)


def test_a_fade_over_five_is_made_in_the_order_of_the_halvings(fading_film: Film) -> None:
    # 2 of 0 and 5; 1 of 0 and 2; 3 of 2 and 5; 4 of 3 and 5. Each is the mean of its two, as this FILM knows no time.
    assert [int(p[0, 0, 0]) for p in interpolate(fading_film, plain(0, 240), 5)] == [0, 60, 120, 180, 210, 240]


def test_equal_frames_repeat_and_cost_at_most_one_feature_pass(film: CountingFilm) -> None:
    a, b = frames(2)
    pictures = list(interpolate(film, [a, a.copy(), a.copy(), b, b.copy()], 4))
    assert len(pictures) == 17
    assert all(np.array_equal(p, a) for p in pictures[:9])
    assert all(np.array_equal(p, b) for p in pictures[12:])
    assert film.feature_passes == 2 + 1  # a, b, and the picture half-way
    assert len(film.times) == 3


def test_a_frame_is_drawn_only_when_all_before_it_are_out(film: Film) -> None:
    drawn = 0

    def source() -> Iterator[Frame]:
        nonlocal drawn
        for frame in frames(4):
            drawn += 1
            yield frame

    pictures = interpolate(film, source(), 3)
    assert [drawn for _ in pictures] == [1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_memory_does_not_grow_with_the_clip(film: CountingFilm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_PIXELS", 1)  # one picture a call, as large ones have it

    def most_pyramids(count: int) -> int:
        film.pyramids.clear()
        return max(sum(p() is not None for p in film.pyramids) for _ in interpolate(film, frames(count), 16))

    # those of the two frames, and one for each halving of 16 to 2
    assert most_pyramids(2) == most_pyramids(6) == 2 + 3


def test_calls_are_batched_and_the_batch_changes_nothing(film: CountingFilm, monkeypatch: pytest.MonkeyPatch) -> None:
    batched = list(interpolate(film, frames(2), 8))
    assert film.calls == 3  # 1, 2 and 4 pictures
    monkeypatch.setattr(module, "BATCH_PIXELS", 2 * 64 * 64)
    by_two = list(interpolate(film, frames(2), 8))
    assert film.calls == 3 + 1 + 1 + 2
    # rounding may turn a level of 255 by one
    assert np.abs(np.stack(batched).astype(int) - np.stack(by_two)).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(100, 70), (64, 1), (65, 64)])
def test_odd_sizes_come_out_as_they_went_in(fading_film: Film, width: int, height: int) -> None:
    clip = frames(2, width, height)
    start, between, stop = interpolate(fading_film, clip, 2)
    assert between.shape == (height, width, 3)
    # padding does not reach into the picture: this FILM's mean is right up to the border
    assert np.abs(between - (start.astype(float) + stop) / 2).max() <= 0.51


def test_a_frame_is_continued_by_its_border_to_multiples_of_64(film: Film) -> None:
    clip, seen = frames(2, 100, 70), []
    with film.extract.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        list(interpolate(film, clip, 2))
    padded = [np.pad(frame, ((0, 128 - 70), (0, 128 - 100), (0, 0)), mode="edge") for frame in clip]
    for picture, expected in zip(seen, padded, strict=True):
        np.testing.assert_allclose(picture[0].permute(1, 2, 0) * 255, expected, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frames_stay_whatever_the_precision(film: Film, dtype: torch.dtype) -> None:
    clip = frames(2)
    pictures = list(interpolate(film.to(dtype), clip, 2))
    assert np.array_equal(pictures[0], clip[0])
    assert np.array_equal(pictures[2], clip[1])
    assert pictures[1].std() > 1


def test_frames_of_two_sizes_are_refused(film: Film) -> None:
    with pytest.raises(ValueError, match="a clip has one size"):
        list(interpolate(film, [*frames(1), *frames(1, 128, 64)], 2))


def test_less_than_a_step_is_refused(film: Film) -> None:
    with pytest.raises(ValueError, match="n=0; n is at least 1"):
        list(interpolate(film, frames(2), 0))
