"""From inputs to pictures: how many, of what size, from what, and what happens when a picture may not be shown."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sd_animation.inputs import Inputs
from sd_animation.pipeline import Pipeline
from stores import CPU
from videokit.errors import InvalidInput, OutOfMemory
from videokit.runtime import Device, Stages, out_of_memory
from videokit.seeds import noise
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.frame_store import FrameStore
from videokit.weights.store import WeightStore

SHORT = Inputs(
    "a red circle",
    "a blue square",
    width=128,
    height=128,
    num_animation_frames=3,
    num_interpolation_steps=2,
    num_inference_steps=2,
    film_interpolation=False,
    seed=11,
)


def clip_of(pipeline: Pipeline, inputs: Inputs, directory: Path) -> np.ndarray:
    with FrameStore(directory) as pictures:
        latents = pipeline.animate(inputs, inputs.resolved_seed(), Stages(pipeline.device), pictures)
        return np.stack(list(pipeline.interpolate(inputs, latents, pictures)))


@pytest.fixture
def decoded(pipeline: Pipeline) -> Iterator[list[int]]:
    """How many pictures each call of the VAE's decoder makes."""
    batches: list[int] = []
    hook = pipeline.vae.decoder.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    yield batches
    hook.remove()


@pytest.mark.parametrize("film", [True, False])
def test_every_picture_is_made_once_and_their_number_is_exact(
    pipeline: Pipeline, tmp_path: Path, decoded: list[int], film: bool
) -> None:
    rng = np.random.default_rng(0)
    for num_frames, n in itertools.product((2, 3, 4), (1, 2, 3, 4)):
        inputs = replace(SHORT, num_animation_frames=num_frames, num_interpolation_steps=n, film_interpolation=film)
        latents = noise((num_frames, 4, 16, 16), seed=1)
        with FrameStore(tmp_path) as pictures:
            for _ in range(num_frames):
                pictures.append(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))
            there = (num_frames - 1) * n + 1  # issue 6, A.5
            decoded.clear()
            frames = list(pipeline.interpolate(inputs, latents, pictures))
            assert len(frames) == there == inputs.num_frames
            # the path's own frames are not decoded again; FILM decodes nothing
            assert sum(decoded) == (0 if film else (num_frames - 1) * (n - 1))
            for index in range(num_frames):
                assert np.array_equal(frames[index * n], pictures[index])
            back = list(pipeline.interpolate(replace(inputs, ping_pong=True), latents, pictures))
            assert len(back) == 2 * there - 2 == replace(inputs, ping_pong=True).num_frames


def test_latents_between_do_not_wash_out(pipeline: Pipeline, pictures: FrameStore) -> None:
    """The mean of two independent latents of variance 1 has variance 1/2; what is decoded must have about 1."""
    seen = []
    decode = pipeline.decode
    latents = noise((2, 4, 16, 16), seed=1)
    frame = np.zeros((128, 128, 3), np.uint8)
    pictures.append(frame), pictures.append(frame)
    pipeline.decode = lambda z: seen.append(float(z.std())) or decode(z)  # type: ignore[method-assign]
    try:
        list(pipeline.interpolate(replace(SHORT, num_animation_frames=2), latents, pictures))
    finally:
        del pipeline.decode
    assert seen == [pytest.approx(1, abs=0.05)]


def test_pictures_are_made_as_they_are_drawn(pipeline: Pipeline, pictures: FrameStore, decoded: list[int]) -> None:
    for _ in range(3):
        pictures.append(np.zeros((128, 128, 3), np.uint8))
    frames = pipeline.interpolate(replace(SHORT, num_interpolation_steps=50), noise((3, 4, 16, 16), seed=1), pictures)
    for _ in range(3):
        next(frames)
    assert decoded == [1, 1]  # and nothing of the 96 others


# each ratio of a documented width to a documented height, at the smallest size that has it
SIZES = [(128, 128), (256, 128), (512, 128), (768, 128), (1024, 128), (128, 256), (128, 512), (128, 768)]
SIZES += [(384, 128), (128, 384), (192, 128), (128, 192), (256, 192)]  # 768:256, 256:768, 768:512, 512:768, 1024:768


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_aspect_ratio_makes_both_formats_with_and_without_film(
    pipeline: Pipeline, tmp_path: Path, width: int, height: int
) -> None:
    inputs = replace(SHORT, width=width, height=height, num_animation_frames=2, num_inference_steps=1, guidance_scale=1)
    with FrameStore(tmp_path) as pictures:
        latents = pipeline.animate(inputs, 11, Stages(CPU), pictures)
        for film in (True, False):
            frames = list(pipeline.interpolate(replace(inputs, film_interpolation=film), latents, pictures))
            for encode in (encode_gif, encode_mp4):
                clip = encode(frames, tmp_path / "clip", fps=20)
                assert (clip.width, clip.height, clip.num_frames) == (width, height, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_start": "a green cat"},
        {"prompt_end": "a green cat"},
        {"prompt_end": "a green cat|a blue square"},
        {"seed": 12},
        {"num_inference_steps": 3},
        {"guidance_scale": 3.0},
        {"prompt_strength": 0.2},
        {"film_interpolation": True},
    ],
)
def test_each_input_changes_the_clip(pipeline: Pipeline, tmp_path: Path, change: dict[str, object]) -> None:
    assert not np.array_equal(clip_of(pipeline, SHORT, tmp_path), clip_of(pipeline, replace(SHORT, **change), tmp_path))


def test_one_seed_gives_the_same_pictures_whatever_ran_before(pipeline: Pipeline, tmp_path: Path) -> None:
    expected = clip_of(pipeline, SHORT, tmp_path)
    clip_of(pipeline, Inputs("x " * 200, "b|c", 256, 128, 2, num_inference_steps=1, seed=1), tmp_path)
    assert np.array_equal(clip_of(pipeline, SHORT, tmp_path), expected)


def test_the_end_of_a_long_prompt_counts(pipeline: Pipeline, tmp_path: Path) -> None:
    """CLIP's 77 positions end after 75 tokens; what stands behind must still be read."""
    clips = [clip_of(pipeline, replace(SHORT, prompt_end="red " * 100 + end), tmp_path) for end in ("cat", "dog")]
    assert not np.array_equal(clips[0][-1], clips[1][-1])


def test_frames_that_the_checker_stops_are_named(
    pipeline: Pipeline, pictures: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = iter([False, True, True])
    monkeypatch.setattr(pipeline.safety_checker, "flags", lambda frames: [next(verdicts) for _ in frames])
    with pytest.raises(InvalidInput) as raised:
        pipeline.animate(SHORT, 11, Stages(CPU), pictures)
    assert str(raised.value) == "the safety checker flagged frames 2, 3 of 3; try another prompt or another seed"


def test_every_frame_of_the_path_is_looked_at_and_no_other(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    flags = pipeline.safety_checker.flags
    monkeypatch.setattr(pipeline.safety_checker, "flags", lambda frames: seen.extend(frames) or flags(frames))
    clip = clip_of(pipeline, SHORT, tmp_path)
    assert np.array_equal(np.stack(seen), clip[::2])  # n = 2: every other is an in-between


def test_out_of_memory_is_told_and_the_next_prediction_is_right(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = clip_of(pipeline, SHORT, tmp_path)
    calls = 0
    conv2d = torch.nn.functional.conv2d

    def exhausted(*args: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return conv2d(*args)

    monkeypatch.setattr(torch.nn.functional, "conv2d", exhausted)
    with pytest.raises(OutOfMemory, match="smaller width"), out_of_memory(CPU, "a smaller width", lambda: None):
        clip_of(pipeline, SHORT, tmp_path)
    monkeypatch.undo()
    assert np.array_equal(clip_of(pipeline, SHORT, tmp_path), expected)


def test_half_precision_keeps_latents_and_the_path_in_float32(store: WeightStore, pictures: FrameStore) -> None:
    half = Pipeline(store, Device(torch.device("cpu"), torch.bfloat16))
    inputs = replace(SHORT, num_animation_frames=2, film_interpolation=True)
    latents = half.animate(inputs, 11, Stages(half.device), pictures)
    assert latents.dtype == torch.float32
    for part in (half.unet, half.vae, half.text_encoder, half.safety_checker.network):
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    assert len(list(half.interpolate(inputs, latents, pictures))) == 3
