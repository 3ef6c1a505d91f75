"""What each input changes, that the videos of a batch are independent, and that no prediction affects the next."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from reference_dpm_solver import alpha_bars, plain_dpm_solver, timesteps_of
from stores import CPU
from videokit.errors import InvalidInput, OutOfMemory, WeightsMissing
from videokit.latents import decode_latents
from videokit.prompts import encode_windows, token_windows
from videokit.runtime import Device, Stages, out_of_memory
from videokit.seeds import noise
from videokit.video.decode import decode
from videokit.weights.store import WeightStore
from zeroscope.inputs import Inputs
from zeroscope.pipeline import Pipeline
from zeroscope.weights import FILES, LAMA, MODELS

# smaller than check() allows, because attention takes long
INPUTS = Inputs(
    "a red circle", "blue", num_frames=2, num_inference_steps=2, width=64, height=64, guidance_scale=3, seed=11
)


def videos_of(pipeline: Pipeline, inputs: Inputs) -> list[np.ndarray]:
    videos = pipeline.generate(inputs, inputs.resolved_seed(), Stages(pipeline.device))
    return [np.stack(list(frames)) for frames in videos]


def video_of(pipeline: Pipeline, inputs: Inputs) -> np.ndarray:
    (video,) = videos_of(pipeline, inputs)
    return video


@pytest.fixture(scope="module")
def expected(pipeline: Pipeline) -> np.ndarray:
    """Return the video of INPUTS."""
    return video_of(pipeline, INPUTS)


@pytest.fixture
def evaluations(pipeline: Pipeline) -> Iterator[list[int]]:
    """Yield a list that gets the batch size of each evaluation of the default model's UNet."""
    batches: list[int] = []
    hook = pipeline.models.get("xl").unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    yield batches
    hook.remove()


def test_no_combination_of_model_and_video_affects_the_next(
    pipeline: Pipeline, random_weights: Path, video: Path
) -> None:
    """All 8 combinations twice in random order, and one of them in a new pipeline."""
    kinds = [(model, start) for model in MODELS for start in (None, video)]
    clips: dict[tuple[str, Path | None], set[str]] = {}
    for model, start in random.Random(1).sample(kinds * 2, 16):
        clip = video_of(pipeline, replace(INPUTS, model=model, init_video=start))
        assert clip.shape == (2, 64, 64, 3)
        clips.setdefault((model, start), set()).add(hashlib.sha256(clip).hexdigest())
    assert {len(hashes) for hashes in clips.values()} == {1}
    assert len(set.union(*clips.values())) == 8

    new = Pipeline(WeightStore(FILES, directories=[random_weights], cache=None), CPU)
    clip = video_of(new, replace(INPUTS, model="potat1", init_video=video))
    assert clips["potat1", video] == {hashlib.sha256(clip).hexdigest()}


@pytest.mark.parametrize("weight", [None, 0.5])
def test_each_video_of_a_batch_is_that_of_its_seed_alone(pipeline: Pipeline, video: Path, weight: float | None) -> None:
    start = {} if weight is None else {"init_video": video, "init_weight": weight}
    inputs = replace(INPUTS, **start)
    batch = videos_of(pipeline, replace(inputs, batch_size=3))
    alone = [video_of(pipeline, replace(inputs, seed=11 + index)) for index in range(3)]
    assert all(np.array_equal(a, b) for a, b in zip(batch, alone, strict=True))
    assert len({clip.tobytes() for clip in alone}) == 3


def test_a_video_is_encoded_noised_denoised_and_decoded(
    pipeline: Pipeline, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of four frames, compared with the reference in one batch; a weight of 0.5 leaves 2 of 4 steps."""
    monkeypatch.setattr("videokit.latents.BATCH_PIXELS", 4 * 64 * 64)
    inputs = replace(INPUTS, init_video=video, num_frames=6, num_inference_steps=4, guidance_scale=1)
    clip = video_of(pipeline, inputs)

    model = pipeline.models.get("xl")
    frames = np.stack(list(decode(video, num_frames=6, width=64, height=64)))
    with torch.inference_mode():
        text = encode_windows(model.text_encoder, token_windows(model.tokenizer, ["a red circle"]))
        posterior = model.vae.encode(torch.tensor(frames).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
        initial, sampling = noise((2, 1, 4, 6, 8, 8), 11)
        clean = 0.18215 * (posterior.mean + posterior.std * sampling[0].transpose(0, 1))
        alpha_bar = float(alpha_bars()[timesteps_of(4)[2]])
        noisy = alpha_bar**0.5 * clean.transpose(0, 1)[None] + (1 - alpha_bar) ** 0.5 * initial
        latents = plain_dpm_solver(lambda x, t: model.unet(x.float(), t, text).sample.double(), noisy, 4, start=2)
        decoded = model.vae.decode(latents[0].transpose(0, 1).float() / 0.18215).sample
    levels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(clip - levels).max() < 0.6  # rounding is half a level


def test_init_weight_0_is_text_to_video(pipeline: Pipeline, video: Path, expected: np.ndarray) -> None:
    inputs = replace(INPUTS, init_video=video, init_weight=0)
    assert np.array_equal(video_of(pipeline, inputs), expected)


def test_init_weight_1_is_the_video_encoded_and_decoded(
    pipeline: Pipeline, video: Path, evaluations: list[int]
) -> None:
    clip = video_of(pipeline, replace(INPUTS, init_video=video, init_weight=1, num_frames=3))
    assert evaluations == []
    vae = pipeline.models.get("xl").vae
    frames = np.stack(list(decode(video, num_frames=3, width=64, height=64)))
    with torch.inference_mode():
        posterior = vae.encode(torch.tensor(frames).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
        sampling = noise((2, 1, 4, 3, 8, 8), 11)[1, 0].transpose(0, 1)
        decoded = vae.decode(posterior.mean + posterior.std * sampling).sample
    levels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(clip - levels).max() < 0.6


@pytest.mark.parametrize(("weight", "guidance", "count"), [(0.25, 3, 2 * 3), (0.5, 1, 2), (0.9, 3, 0)])
def test_a_video_replaces_its_share_of_the_steps(
    pipeline: Pipeline, video: Path, evaluations: list[int], weight: float, guidance: float, count: int
) -> None:
    steps = 4
    video_of(
        pipeline,
        replace(INPUTS, init_video=video, init_weight=weight, num_inference_steps=steps, guidance_scale=guidance),
    )
    assert sum(evaluations) == count == (steps - round(weight * steps)) * (2 if guidance > 1 else 1)


def test_an_invalid_video_is_rejected_before_a_model_is_loaded(pipeline: Pipeline, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"<html>404</html>")
    pipeline.unload()
    with pytest.raises(InvalidInput, match=r"^init_video=broken\.mp4 \(16 bytes\) is damaged or not a video"):
        # at weight 0 too
        video_of(pipeline, replace(INPUTS, init_video=broken, init_weight=0))
    assert not pipeline.models.has("xl")


def test_repeated_frames_of_a_short_video_are_logged(
    pipeline: Pipeline, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "videokit"):
        video_of(pipeline, replace(INPUTS, init_video=video, init_weight=1, num_frames=7))
    (line,) = [message for message in caplog.messages if message.startswith("decode: 7 frames 64x64")]
    assert line.endswith("6 different pictures of 6 decoded, so some are repeated")


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a green cat"},
        {"negative_prompt": ""},
        {"seed": 12},
        {"num_inference_steps": 3},
        {"guidance_scale": 5},
        {"num_frames": 3},
        {"width": 72},
        {"height": 72},
        {"model": "576w"},
        {"remove_watermark": True},
    ],
)
def test_each_input_changes_the_clip(pipeline: Pipeline, expected: np.ndarray, change: dict[str, object]) -> None:
    changed = replace(INPUTS, **change)
    clip = video_of(pipeline, changed)
    assert clip.shape == (changed.num_frames, changed.height, changed.width, 3)
    assert not np.array_equal(clip, expected)


def test_the_negative_prompt_is_ignored_without_guidance(pipeline: Pipeline) -> None:
    clips = [
        video_of(pipeline, replace(INPUTS, guidance_scale=1, num_inference_steps=1, negative_prompt=negative))
        for negative in ("", "dog " * 100)
    ]
    assert np.array_equal(*clips)


def test_tokens_after_the_75th_change_the_clip(pipeline: Pipeline) -> None:
    clips = [
        video_of(pipeline, replace(INPUTS, num_inference_steps=1, **{field: "red " * 100 + end}))
        for field in ("prompt", "negative_prompt")
        for end in ("cat", "dog")
    ]
    assert len({clip.tobytes() for clip in clips}) == 4


@pytest.mark.parametrize("text", ["", "- dash", "--negative", "日本 \U0001f980 é\u0301", "\x00\n\t!", "x" * 2000])
def test_any_text_is_a_prompt(pipeline: Pipeline, text: str) -> None:
    inputs = replace(INPUTS, prompt=text, negative_prompt=text, num_frames=1, num_inference_steps=1)
    assert video_of(pipeline, inputs).shape == (1, 64, 64, 3)


def test_frames_are_decoded_and_videos_denoised_as_they_are_consumed(
    pipeline: Pipeline, evaluations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder_batches: list[int] = []
    monkeypatch.setattr("videokit.latents.BATCH_PIXELS", 3 * 64 * 64)
    vae = pipeline.models.get("xl").vae
    hook = vae.decoder.register_forward_pre_hook(lambda _, args: decoder_batches.append(len(args[0])))
    inputs = replace(INPUTS, num_frames=5, num_inference_steps=1, guidance_scale=1, batch_size=2)
    videos = pipeline.generate(inputs, 1, Stages(CPU))
    frames = next(videos)
    assert (evaluations, decoder_batches) == ([1], [])
    next(frames)
    assert decoder_batches == [3]
    assert len(list(frames)) == 4
    assert (evaluations, decoder_batches) == ([1], [3, 2])
    hook.remove()


def test_remove_watermark_changes_only_the_band(pipeline: Pipeline) -> None:
    before, after = (video_of(pipeline, replace(INPUTS, remove_watermark=remove)) for remove in (False, True))
    rows = np.flatnonzero((before != after).any(axis=(0, 2, 3)))
    assert 0.55 * 64 - 1 <= rows.min() < rows.max() <= 0.76 * 64 + 1
    assert len(rows) > 10


def test_a_missing_lama_is_reported_before_any_work(
    random_weights: Path, tmp_path: Path, evaluations: list[int]
) -> None:
    for model in MODELS:
        (tmp_path / model).symlink_to(random_weights / model)
    pipeline = Pipeline(WeightStore(FILES, directories=[tmp_path], cache=None), CPU)
    pipeline.models.get("xl").unet.register_forward_pre_hook(lambda _, args: evaluations.append(len(args[0])))
    with pytest.raises(WeightsMissing, match=LAMA):
        video_of(pipeline, replace(INPUTS, remove_watermark=True))
    assert evaluations == []


@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_out_of_memory_is_reported_and_does_not_change_the_next_clip(
    pipeline: Pipeline, video: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    """In the VAE's encoder, the UNet and the VAE's decoder."""
    inputs = replace(INPUTS, init_video=video)
    conv2d, calls, last_call = torch.nn.functional.conv2d, 0, None

    def conv2d_until_exhausted(*args: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == last_call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return conv2d(*args)

    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d_until_exhausted)
    expected = video_of(pipeline, inputs)
    calls, last_call = 0, int(part * calls)
    with pytest.raises(OutOfMemory, match="fewer num_frames"), out_of_memory(CPU, "fewer num_frames", pipeline.unload):
        video_of(pipeline, inputs)
    monkeypatch.undo()
    assert not pipeline.models.has("xl")
    assert np.array_equal(video_of(pipeline, inputs), expected)


def test_in_half_precision_latents_stay_float32(
    random_weights: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = WeightStore(FILES, directories=[random_weights], cache=None)
    half = Pipeline(store, Device(torch.device("cpu"), torch.bfloat16))
    model = half.models.get("xl")
    for part in (model.unet, model.vae, model.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    dtypes: list[torch.dtype] = []

    def decode_and_record(vae: AutoencoderKL, latents: torch.Tensor, batch_size: int) -> Iterator[np.ndarray]:
        dtypes.append(latents.dtype)
        return decode_latents(vae, latents, batch_size)

    monkeypatch.setattr("zeroscope.pipeline.decode_latents", decode_and_record)
    assert video_of(half, replace(INPUTS, init_video=video)).shape == (2, 64, 64, 3)
    assert dtypes == [torch.float32]


def test_names_of_textual_inversions_stay_words_and_the_log_says_so(
    pipeline: Pipeline, stages: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "videokit")
    inputs = replace(INPUTS, negative_prompt="easynegative, bad-artist")
    model = pipeline.models.get(inputs.model)
    embeds = pipeline.encode_prompt(model, inputs, stages)
    with torch.inference_mode():
        expected = encode_windows(
            model.text_encoder, token_windows(model.tokenizer, [inputs.negative_prompt, inputs.prompt])
        )
    assert torch.equal(embeds, expected)
    (line,) = (message for message in caplog.messages if "textual inversions" in message)
    assert line.startswith("textual inversions: easynegative, bad-artist stay words: they are for the text encoder of")
