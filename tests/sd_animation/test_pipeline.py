"""Which frames the pipeline makes from its inputs, and what it raises for a flagged frame and when out of memory."""

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
from sd_animation.weights import FILES, SETUP
from stores import CPU
from videokit.errors import InvalidInput, OutOfMemory
from videokit.inversion_names import TextualInversions
from videokit.runtime import Device, Stages, out_of_memory
from videokit.seeds import noise
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.frame_store import FrameStore
from videokit.weights.store import WeightStore
from videokit.weights.textual_inversions import TEXTUAL_INVERSIONS

INPUTS = Inputs(
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
    with FrameStore(directory) as keyframes:
        latents = pipeline.animate(inputs, inputs.resolved_seed(), Stages(pipeline.device), keyframes)
        return np.stack(list(pipeline.interpolate(inputs, latents, keyframes)))


@pytest.fixture
def decoder_batches(pipeline: Pipeline) -> Iterator[list[int]]:
    """Yield a list that gets the batch size of each call of the VAE's decoder."""
    batches: list[int] = []
    hook = pipeline.vae.decoder.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    yield batches
    hook.remove()


@pytest.mark.parametrize("film", [True, False])
def test_every_frame_is_computed_once_and_their_number_is_exact(
    pipeline: Pipeline, tmp_path: Path, decoder_batches: list[int], film: bool
) -> None:
    rng = np.random.default_rng(0)
    for num_frames, n in itertools.product((2, 3, 4), (1, 2, 3, 4)):
        inputs = replace(INPUTS, num_animation_frames=num_frames, num_interpolation_steps=n, film_interpolation=film)
        latents = noise((num_frames, 4, 16, 16), seed=1)
        with FrameStore(tmp_path) as keyframes:
            for _ in range(num_frames):
                keyframes.append(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))
            forward = (num_frames - 1) * n + 1
            decoder_batches.clear()
            frames = list(pipeline.interpolate(inputs, latents, keyframes))
            assert len(frames) == forward == inputs.num_frames
            # keyframes are not decoder_batches again, and FILM decodes nothing
            assert sum(decoder_batches) == (0 if film else (num_frames - 1) * (n - 1))
            for index in range(num_frames):
                assert np.array_equal(frames[index * n], keyframes[index])
            ping_pong = replace(inputs, ping_pong=True)
            assert (
                len(list(pipeline.interpolate(ping_pong, latents, keyframes)))
                == 2 * forward - 2
                == ping_pong.num_frames
            )


def test_latents_between_keep_their_variance(pipeline: Pipeline, keyframes: FrameStore) -> None:
    """The mean of two independent latents of variance 1 has variance 1/2, and decodes to a washed-out frame."""
    deviations = []
    latents = noise((2, 4, 16, 16), seed=1)
    frame = np.zeros((128, 128, 3), np.uint8)
    keyframes.append(frame), keyframes.append(frame)
    scale = pipeline.vae.config.scaling_factor
    hook = pipeline.vae.post_quant_conv.register_forward_pre_hook(
        lambda _, args: deviations.append(float((args[0] * scale).std()))
    )
    list(pipeline.interpolate(replace(INPUTS, num_animation_frames=2), latents, keyframes))
    hook.remove()
    assert deviations == [pytest.approx(1, abs=0.05)]


def test_frames_are_decoded_as_they_are_consumed(
    pipeline: Pipeline, keyframes: FrameStore, decoder_batches: list[int]
) -> None:
    for _ in range(3):
        keyframes.append(np.zeros((128, 128, 3), np.uint8))
    frames = pipeline.interpolate(replace(INPUTS, num_interpolation_steps=50), noise((3, 4, 16, 16), seed=1), keyframes)
    for _ in range(3):
        next(frames)
    assert decoder_batches == [1, 1]  # none of the 96 others


# each ratio of a documented width to a documented height, at the smallest size that has it
SIZES = [(128, 128), (256, 128), (512, 128), (768, 128), (1024, 128), (128, 256), (128, 512), (128, 768)]
SIZES += [(384, 128), (128, 384), (192, 128), (128, 192), (256, 192)]  # 768:256, 256:768, 768:512, 512:768, 1024:768


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_aspect_ratio_works_in_both_formats_with_and_without_film(
    pipeline: Pipeline, tmp_path: Path, width: int, height: int
) -> None:
    inputs = replace(
        INPUTS, width=width, height=height, num_animation_frames=2, num_inference_steps=1, guidance_scale=1
    )
    with FrameStore(tmp_path) as keyframes:
        latents = pipeline.animate(inputs, 11, Stages(CPU), keyframes)
        for film in (True, False):
            frames = list(pipeline.interpolate(replace(inputs, film_interpolation=film), latents, keyframes))
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
    assert not np.array_equal(
        clip_of(pipeline, INPUTS, tmp_path), clip_of(pipeline, replace(INPUTS, **change), tmp_path)
    )


def test_one_seed_gives_the_same_frames_whatever_ran_before(pipeline: Pipeline, tmp_path: Path) -> None:
    expected = clip_of(pipeline, INPUTS, tmp_path)
    clip_of(pipeline, Inputs("x " * 200, "b|c", 256, 128, 2, num_inference_steps=1, seed=1), tmp_path)
    assert np.array_equal(clip_of(pipeline, INPUTS, tmp_path), expected)


def test_tokens_after_the_75th_change_the_clip(pipeline: Pipeline, tmp_path: Path) -> None:
    clips = [clip_of(pipeline, replace(INPUTS, prompt_end="red " * 100 + end), tmp_path) for end in ("cat", "dog")]
    assert not np.array_equal(clips[0][-1], clips[1][-1])


def test_flagged_frames_are_named(pipeline: Pipeline, keyframes: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter([False, True, True])
    monkeypatch.setattr(pipeline.safety_checker, "flags", lambda frames: [next(verdicts) for _ in frames])
    with pytest.raises(InvalidInput) as raised:
        pipeline.animate(INPUTS, 11, Stages(CPU), keyframes)
    assert str(raised.value) == "the safety checker flagged frames 2, 3 of 3; try another prompt or another seed"


def test_the_safety_checker_gets_the_keyframes_and_no_other(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[np.ndarray] = []
    flags = pipeline.safety_checker.flags
    monkeypatch.setattr(pipeline.safety_checker, "flags", lambda batch: frames.extend(batch) or flags(batch))
    clip = clip_of(pipeline, INPUTS, tmp_path)
    assert np.array_equal(np.stack(frames), clip[::2])  # n = 2, so every other frame is interpolated


def test_out_of_memory_is_reported_and_does_not_change_the_next_clip(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = clip_of(pipeline, INPUTS, tmp_path)
    calls = 0
    conv2d = torch.nn.functional.conv2d

    def conv2d_until_exhausted(*args: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return conv2d(*args)

    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d_until_exhausted)
    with pytest.raises(OutOfMemory, match="smaller width"), out_of_memory(CPU, "a smaller width", lambda: None):
        clip_of(pipeline, INPUTS, tmp_path)
    monkeypatch.undo()
    assert np.array_equal(clip_of(pipeline, INPUTS, tmp_path), expected)


def test_in_half_precision_latents_stay_float32(store: WeightStore, keyframes: FrameStore) -> None:
    half = Pipeline(store, Device(torch.device("cpu"), torch.bfloat16))
    inputs = replace(INPUTS, num_animation_frames=2, film_interpolation=True)
    latents = half.animate(inputs, 11, Stages(half.device), keyframes)
    assert latents.dtype == torch.float32
    for part in (half.unet, half.vae, half.text_encoder, half.safety_checker.network):
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    assert len(list(half.interpolate(inputs, latents, keyframes))) == 3


def test_a_textual_inversion_is_read_in_every_prompt(
    pipeline: Pipeline, store: WeightStore, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "embeddings").mkdir()
    torch.save({"<mine>": torch.randn(2, 64)}, tmp_path / "embeddings" / "mine.bin")
    inputs = replace(INPUTS, prompt_start="a mine", prompt_end="a cat | mine, a dog")
    words, _ = pipeline.encode_prompt(inputs, stages)
    with_file = WeightStore(store.files.values(), directories=[tmp_path, *store.directories], cache=None)
    monkeypatch.setattr(pipeline, "inversions", TextualInversions(with_file, 64))
    vectors, unconditional = pipeline.encode_prompt(inputs, stages)
    assert [(each.name, len(each.vectors)) for each in stages.textual_inversions] == [("mine", 2)]
    assert [torch.equal(*pair) for pair in zip(words, vectors, strict=True)] == [False, True, False]
    assert unconditional is not None
    assert len(unconditional) == 1


def test_set_up_needs_no_textual_inversion() -> None:
    assert {file.path for file in FILES} - set(SETUP) == {file.path for file in TEXTUAL_INVERSIONS}
