"""How many frames interpolation adds, that the given frames stay unchanged, and how often FILM is called."""

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
    """FILM that records its calls."""

    def __init__(self) -> None:
        super().__init__(recipe.SMALL)
        self.feature_passes = self.calls = 0
        self.times: list[float] = []
        self.pyramids: list[weakref.ref[np.ndarray]] = []

    def features(self, images: torch.Tensor) -> Pyramid:
        self.feature_passes += len(images)
        pyramid = super().features(images)
        finest = pyramid[0].float().numpy().copy()
        self.pyramids.append(weakref.ref(finest))  # alive while a view of the tensor below is
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
    """Return a FILM that computes the mean of two frames, whatever the time."""
    tensors = load_file(film_file)
    averaging = {f"fuse.{layer}.weight" for layer in ("convs.3.1.conv", "convs.3.2.conv", "output_conv")}
    for key, tensor in tensors.items():
        # rounding leaves the 0.5 and 1 that the recipe adds to random values
        tensors[key] = (2 * tensor[:3]).round() / 2 if key in averaging else torch.zeros_like(tensor)
        if key in averaging and "convs" in key:
            tensors[key] = torch.cat([tensors[key], torch.zeros_like(tensor[3:])])
    save_file(tensors, tmp_path / "fading.safetensors")
    return load_film(tmp_path / "fading.safetensors", CPU)


def natural_frames(count: int, width: int = 64, height: int = 64) -> list[Frame]:
    return list(natural(count, width, height))


def plain_frames(*levels: int) -> list[Frame]:
    return [np.full((64, 64, 3), level, np.uint8) for level in levels]


@pytest.mark.parametrize("n", NS)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_n_minus_1_frames_are_added_between_each_two_which_stay_unchanged(film: Film, n: int, count: int) -> None:
    clip = natural_frames(count)
    frames = list(interpolate(film, clip, n))
    assert len(frames) == ((count - 1) * n + 1 if count else 0)
    assert all(frame.shape == (64, 64, 3) and frame.dtype == np.uint8 for frame in frames)
    for index, frame in enumerate(clip):
        assert np.array_equal(frames[index * n], frame)


@pytest.mark.parametrize(
    ("n", "ends"),
    # the frames between that are an end of a later pair: all except those with two finished neighbours; counted by
    # hand: 3 is 1 + 2, 5 is 2 + (1 + 2), 50 is 14 times 1 + 2 and twice 2 + 2
    [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (8, 3), (50, 49 - 18)],
)
def test_features_are_computed_once_for_each_frame_that_needs_them(film: CountingFilm, n: int, ends: int) -> None:
    list(interpolate(film, natural_frames(3), n))
    assert len(film.times) == 2 * (n - 1)
    assert film.feature_passes == (0 if n == 1 else 3 + 2 * ends)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 12, 50])
def test_the_frame_nearest_to_a_middle_is_always_computed_next(film: CountingFilm, n: int) -> None:
    # The order of dajes/frame-interpolation-pytorch@94a8bd6 inference.py: of all missing frames, the one nearest to the
    # middle of its neighbours, the earlier of two.
    finished, expected = [0, n], []
    while len(finished) <= n:
        missing = sorted(set(range(n)) - set(finished))

        def time(index: int) -> float:
            start = max(i for i in finished if i < index)
            stop = min(i for i in finished if i > index)
            return (index - start) / (stop - start)

        chosen = min(missing, key=lambda index: (round(abs(time(index) - 0.5), 9), index))
        expected.append(time(chosen))
        finished.append(chosen)
    list(interpolate(film, natural_frames(2), n))
    assert sorted(film.times) == pytest.approx(sorted(expected))
    if n in (2, 4, 8):
        assert set(film.times) == {0.5}  # the only time that FILM was trained on


@pytest.mark.parametrize(
    ("levels", "n", "expected"),
    [
        ([0, 240, 80], 8, [*range(0, 240, 30), *range(240, 80, -20), 80]),
        # 2 from 0 and 5; 1 from 0 and 2; 3 from 2 and 5; 4 from 3 and 5: each is the mean of its neighbours
        ([0, 240], 5, [0, 60, 120, 180, 210, 240]),
    ],
)
def test_each_frame_is_computed_from_the_neighbours_of_its_halving(
    fading_film: Film, levels: list[int], n: int, expected: list[int]
) -> None:
    frames = list(interpolate(fading_film, plain_frames(*levels), n))
    assert [int(frame[32, 32, 0]) for frame in frames] == expected
    assert all((frame == frame[32, 32]).all() for frame in frames)


def test_equal_frames_are_repeated_without_calling_film(film: CountingFilm) -> None:
    a, b = natural_frames(2)
    frames = list(interpolate(film, [a, a.copy(), a.copy(), b, b.copy()], 4))
    assert len(frames) == 17
    assert all(np.array_equal(frame, a) for frame in frames[:9])
    assert all(np.array_equal(frame, b) for frame in frames[12:])
    assert film.feature_passes == 2 + 1  # a, b, and the frame half-way
    assert len(film.times) == 3


def test_a_frame_is_consumed_when_all_before_it_have_been_yielded(film: Film) -> None:
    consumed = 0

    def source() -> Iterator[Frame]:
        nonlocal consumed
        for frame in natural_frames(4):
            consumed += 1
            yield frame

    assert [consumed for _ in interpolate(film, source(), 3)] == [1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_memory_does_not_grow_with_the_clip(film: CountingFilm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_PIXELS", 1)  # one frame a call, as for large frames

    def most_pyramids(count: int) -> int:
        film.pyramids.clear()
        return max(sum(p() is not None for p in film.pyramids) for _ in interpolate(film, natural_frames(count), 16))

    # two frames, and one for each halving from 16 to 2
    assert most_pyramids(2) == most_pyramids(6) == 2 + 3


def test_the_batch_size_changes_only_the_rounding(film: CountingFilm, monkeypatch: pytest.MonkeyPatch) -> None:
    batched = list(interpolate(film, natural_frames(2), 8))
    assert film.calls == 3  # of 1, 2 and 4 frames
    monkeypatch.setattr(module, "BATCH_PIXELS", 2 * 64 * 64)
    by_two = list(interpolate(film, natural_frames(2), 8))
    assert film.calls == 3 + 1 + 1 + 2
    assert np.abs(np.stack(batched).astype(int) - np.stack(by_two)).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(100, 70), (64, 1), (65, 64)])
def test_frames_of_odd_sizes_keep_their_size(fading_film: Film, width: int, height: int) -> None:
    clip = natural_frames(2, width, height)
    start, between, stop = interpolate(fading_film, clip, 2)
    assert between.shape == (height, width, 3)
    # padding does not affect the frame: the mean is right up to the border
    assert np.abs(between - (start.astype(float) + stop) / 2).max() <= 0.51


def test_frames_are_padded_with_their_border_to_multiples_of_64(film: Film) -> None:
    clip, images = natural_frames(2, 100, 70), []
    with film.extract.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0])):
        list(interpolate(film, clip, 2))
    padded = [np.pad(frame, ((0, 128 - 70), (0, 128 - 100), (0, 0)), mode="edge") for frame in clip]
    for image, expected in zip(images, padded, strict=True):
        np.testing.assert_allclose(image[0].permute(1, 2, 0) * 255, expected, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_given_frames_stay_unchanged_in_every_precision(film: Film, dtype: torch.dtype) -> None:
    clip = natural_frames(2)
    start, between, stop = interpolate(film.to(dtype), clip, 2)
    assert np.array_equal(start, clip[0])
    assert np.array_equal(stop, clip[1])
    assert between.std() > 1


def test_frames_of_two_sizes_are_rejected(film: Film) -> None:
    with pytest.raises(ValueError, match="a clip has one size"):
        list(interpolate(film, [*natural_frames(1), *natural_frames(1, 128, 64)], 2))


def test_n_below_1_is_rejected(film: Film) -> None:
    with pytest.raises(ValueError, match="n=0; n is at least 1"):
        list(interpolate(film, natural_frames(2), 0))
