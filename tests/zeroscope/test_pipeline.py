"""From inputs to frames: what each input does, that videos of a batch stand alone, and that nothing stays behind."""

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

# smaller than check() allows, where attention would take most of the time
SHORT = Inputs(
    "a red circle", "blue", num_frames=2, num_inference_steps=2, width=64, height=64, guidance_scale=3, seed=11
)


def videos_of(pipeline: Pipeline, inputs: Inputs) -> list[np.ndarray]:
    videos = pipeline.generate(inputs, inputs.resolved_seed(), Stages(pipeline.device))
    return [np.stack(list(frames)) for frames in videos]


def video_of(pipeline: Pipeline, inputs: Inputs) -> np.ndarray:
    (video,) = videos_of(pipeline, inputs)
    return video


@pytest.fixture(scope="module")
def short(pipeline: Pipeline) -> np.ndarray:
    """What SHORT gives."""
    return video_of(pipeline, SHORT)


@pytest.fixture
def evaluations(pipeline: Pipeline) -> Iterator[list[int]]:
    """The batch size of each evaluation of the default model's UNet, as they happen."""
    batches: list[int] = []
    hook = pipeline.models.get("xl").unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    yield batches
    hook.remove()


def test_models_in_any_order_with_and_without_a_video_leak_nothing(pipeline: Pipeline, video: Path) -> None:
    """All four, text to video and video to video, twice in random order: eight different clips, each the same twice."""
    kinds = [(model, start) for model in MODELS for start in (None, video)]
    clips: dict[tuple[str, Path | None], set[str]] = {}
    for model, start in random.Random(1).sample(kinds * 2, 16):
        clip = video_of(pipeline, replace(SHORT, model=model, init_video=start))
        assert clip.shape == (2, 64, 64, 3)
        clips.setdefault((model, start), set()).add(hashlib.sha256(clip).hexdigest())
    assert {len(seen) for seen in clips.values()} == {1}
    assert len(set.union(*clips.values())) == 8


def test_a_pipeline_that_is_new_gives_the_same(pipeline: Pipeline, random_weights: Path, video: Path) -> None:
    new = Pipeline(WeightStore(FILES, directories=[random_weights], cache=None), CPU)
    inputs = replace(SHORT, model="potat1", init_video=video)
    assert np.array_equal(video_of(new, inputs), video_of(pipeline, inputs))


@pytest.mark.parametrize("weight", [None, 0.5])
def test_video_i_of_a_batch_is_that_of_its_seed_alone(pipeline: Pipeline, video: Path, weight: float | None) -> None:
    start = {} if weight is None else {"init_video": video, "init_weight": weight}
    inputs = replace(SHORT, **start)
    together = videos_of(pipeline, replace(inputs, batch_size=3))
    alone = [video_of(pipeline, replace(inputs, seed=11 + index)) for index in range(3)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    assert len({clip.tobytes() for clip in alone}) == 3


def test_a_video_goes_through_vae_noise_steps_and_vae(
    pipeline: Pipeline, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four frames at a time, against the plain way with all at once; round(0.5 * 4) = 2 of 4 steps."""
    monkeypatch.setattr("videokit.latents.BATCH_PIXELS", 4 * 64 * 64)
    inputs = replace(SHORT, init_video=video, num_frames=6, num_inference_steps=4, guidance_scale=1)
    ours = video_of(pipeline, inputs)

    model = pipeline.models.get("xl")
    pictures = np.stack(list(decode(video, num_frames=6, width=64, height=64)))
    with torch.inference_mode():
        text = encode_windows(model.text_encoder, token_windows(model.tokenizer, ["a red circle"]))
        posterior = model.vae.encode(torch.tensor(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
        initial, sampling = noise((2, 1, 4, 6, 8, 8), 11)
        clean = 0.18215 * (posterior.mean + posterior.std * sampling[0].transpose(0, 1))
        alpha_bar = float(alpha_bars()[timesteps_of(4)[2]])
        noisy = alpha_bar**0.5 * clean.transpose(0, 1)[None] + (1 - alpha_bar) ** 0.5 * initial
        latents = plain_dpm_solver(lambda x, t: model.unet(x.float(), t, text).sample.double(), noisy, 4, start=2)
        decoded = model.vae.decode(latents[0].transpose(0, 1).float() / 0.18215).sample
    levels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - levels).max() < 0.6  # rounding is half a level


def test_init_weight_0_is_text_to_video(pipeline: Pipeline, video: Path, short: np.ndarray) -> None:
    inputs = replace(SHORT, init_video=video, init_weight=0)
    assert np.array_equal(video_of(pipeline, inputs), short)


def test_init_weight_1_is_the_video_through_the_vae(pipeline: Pipeline, video: Path, evaluations: list[int]) -> None:
    ours = video_of(pipeline, replace(SHORT, init_video=video, init_weight=1, num_frames=3))
    assert evaluations == []
    vae = pipeline.models.get("xl").vae
    pictures = np.stack(list(decode(video, num_frames=3, width=64, height=64)))
    with torch.inference_mode():
        posterior = vae.encode(torch.tensor(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
        sampling = noise((2, 1, 4, 3, 8, 8), 11)[1, 0].transpose(0, 1)
        decoded = vae.decode(posterior.mean + posterior.std * sampling).sample
    levels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - levels).max() < 0.6


@pytest.mark.parametrize(("weight", "guidance", "expected"), [(0.25, 3, 2 * 3), (0.5, 1, 2), (0.9, 3, 0)])
def test_a_video_saves_its_part_of_the_steps(
    pipeline: Pipeline, video: Path, evaluations: list[int], weight: float, guidance: float, expected: int
) -> None:
    steps = 4
    video_of(
        pipeline,
        replace(SHORT, init_video=video, init_weight=weight, num_inference_steps=steps, guidance_scale=guidance),
    )
    assert sum(evaluations) == expected == (steps - round(weight * steps)) * (2 if guidance > 1 else 1)


def test_the_video_is_looked_at_before_a_model_is_loaded(pipeline: Pipeline, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"<html>404</html>")
    pipeline.unload()
    with pytest.raises(InvalidInput, match=r"^broken\.mp4 \(16 bytes\) is damaged or not a video"):
        # also where nothing of it would be seen
        video_of(pipeline, replace(SHORT, init_video=broken, init_weight=0))
    assert not pipeline.models.has("xl")


def test_a_short_video_is_shown_nearest_in_time_and_the_log_says_so(
    pipeline: Pipeline, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "videokit"):
        video_of(pipeline, replace(SHORT, init_video=video, init_weight=1, num_frames=7))
    (line,) = [message for message in caplog.messages if message.startswith("decode: 7 frames 64x64")]
    assert line.endswith("it has too few, so some are repeated")


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
def test_each_input_changes_the_clip(pipeline: Pipeline, short: np.ndarray, change: dict[str, object]) -> None:
    changed = replace(SHORT, **change)
    clip = video_of(pipeline, changed)
    assert clip.shape == (changed.num_frames, changed.height, changed.width, 3)
    assert not np.array_equal(clip, short)


def test_without_guidance_the_negative_prompt_says_nothing(pipeline: Pipeline) -> None:
    clips = [
        video_of(pipeline, replace(SHORT, guidance_scale=1, num_inference_steps=1, negative_prompt=negative))
        for negative in ("", "dog " * 100)
    ]
    assert np.array_equal(*clips)


def test_the_end_of_a_long_prompt_counts(pipeline: Pipeline) -> None:
    """CLIP's 77 positions end after 75 tokens; what stands behind must still be read."""
    clips = [
        video_of(pipeline, replace(SHORT, num_inference_steps=1, **{field: "red " * 100 + end}))
        for field in ("prompt", "negative_prompt")
        for end in ("cat", "dog")
    ]
    assert len({clip.tobytes() for clip in clips}) == 4


@pytest.mark.parametrize("text", ["", "- dash", "--negative", "日本 \U0001f980 é\u0301", "\x00\n\t!", "x" * 2000])
def test_any_text_is_a_prompt(pipeline: Pipeline, text: str) -> None:
    inputs = replace(SHORT, prompt=text, negative_prompt=text, num_frames=1, num_inference_steps=1)
    assert video_of(pipeline, inputs).shape == (1, 64, 64, 3)


def test_pictures_are_decoded_as_they_are_drawn_and_videos_made_as_they_are_asked_for(
    pipeline: Pipeline, evaluations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    monkeypatch.setattr("videokit.latents.BATCH_PIXELS", 3 * 64 * 64)
    vae = pipeline.models.get("xl").vae
    hook = vae.decoder.register_forward_pre_hook(lambda _, args: decoded.append(len(args[0])))
    inputs = replace(SHORT, num_frames=5, num_inference_steps=1, guidance_scale=1, batch_size=2)
    videos = pipeline.generate(inputs, 1, Stages(CPU))
    frames = next(videos)
    assert (evaluations, decoded) == ([1], [])
    next(frames)
    assert decoded == [3]
    assert len(list(frames)) == 4
    assert (evaluations, decoded) == ([1], [3, 2])
    hook.remove()


def test_the_watermark_goes_and_all_else_stays(pipeline: Pipeline) -> None:
    """Issue 3, A.5: rows 0.55 to 0.76 of the height."""
    before, after = (video_of(pipeline, replace(SHORT, remove_watermark=remove)) for remove in (False, True))
    changed = np.flatnonzero((before != after).any(axis=(0, 2, 3)))
    assert 0.55 * 64 - 1 <= changed.min() < changed.max() <= 0.76 * 64 + 1
    assert len(changed) > 10


def test_a_missing_lama_is_told_before_any_work(random_weights: Path, tmp_path: Path, evaluations: list[int]) -> None:
    for model in MODELS:
        (tmp_path / model).symlink_to(random_weights / model)
    without = Pipeline(WeightStore(FILES, directories=[tmp_path], cache=None), CPU)
    without.models.get("xl").unet.register_forward_pre_hook(lambda _, args: evaluations.append(len(args[0])))
    with pytest.raises(WeightsMissing, match=LAMA):
        video_of(without, replace(SHORT, remove_watermark=True))
    assert evaluations == []


@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_out_of_memory_is_told_and_the_next_prediction_is_right(
    pipeline: Pipeline, video: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    """In the VAE's encoder, the UNet and the VAE's decoder."""
    inputs = replace(SHORT, init_video=video)
    conv2d, calls, fatal = torch.nn.functional.conv2d, 0, None

    def limited(*args: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return conv2d(*args)

    monkeypatch.setattr(torch.nn.functional, "conv2d", limited)
    expected = video_of(pipeline, inputs)
    calls, fatal = 0, int(part * calls)
    with pytest.raises(OutOfMemory, match="fewer num_frames"), out_of_memory(CPU, "fewer num_frames", pipeline.unload):
        video_of(pipeline, inputs)
    monkeypatch.undo()
    assert not pipeline.models.has("xl")
    assert np.array_equal(video_of(pipeline, inputs), expected)


def test_half_precision_keeps_latents_and_guidance_in_float32(
    random_weights: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = WeightStore(FILES, directories=[random_weights], cache=None)
    half = Pipeline(store, Device(torch.device("cpu"), torch.bfloat16))
    model = half.models.get("xl")
    for part in (model.unet, model.vae, model.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    seen: list[torch.dtype] = []

    def decode_and_record(vae: AutoencoderKL, latents: torch.Tensor, batch_size: int) -> Iterator[np.ndarray]:
        seen.append(latents.dtype)
        return decode_latents(vae, latents, batch_size)

    monkeypatch.setattr("zeroscope.pipeline.decode_latents", decode_and_record)
    assert video_of(half, replace(SHORT, init_video=video)).shape == (2, 64, 64, 3)
    assert seen == [torch.float32]


def test_attention_is_torchs_own(pipeline: Pipeline) -> None:
    # diffusers' processor around torch's scaled_dot_product_attention; its other ones build the whole matrix
    model = pipeline.models.get("xl")
    processors = (*model.unet.attn_processors.values(), *model.vae.attn_processors.values())
    assert {type(processor).__name__ for processor in processors} == {"AttnProcessor2_0"}
