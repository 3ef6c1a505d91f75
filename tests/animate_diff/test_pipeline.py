"""What the sampler computes, what each input changes, and that no prediction affects the next."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from animate_diff.inputs import CHECKPOINTS, MOTION_MODULES, NUM_FRAMES, Inputs
from animate_diff.pipeline import Pipeline
from stores import CPU, store_of
from videokit.errors import OutOfMemory
from videokit.prompts import encode_windows, token_windows
from videokit.runtime import Device, Stages, out_of_memory
from videokit.seeds import noise

INPUTS = Inputs("a red circle moving right", "blue", num_inference_steps=3, seed=11)


def clip_of(pipeline: Pipeline, inputs: Inputs = INPUTS) -> np.ndarray:
    return np.stack(list(pipeline.generate(inputs, inputs.resolved_seed(), Stages(pipeline.device))))


def plain_ddim(
    pipeline: Pipeline, latents: torch.Tensor, prompt_embeds: torch.Tensor, steps: int, guidance: float
) -> torch.Tensor:
    """Return the result of DDIM in float64 by the papers' equations, with the pipeline's UNet.

    Schedule: betas linear from 0.00085 to 0.012 over 1000 steps, alpha_bar is 1 - beta multiplied up; "leading"
    timesteps with offset 1; alpha_bar is 1 after the last step (set_alpha_to_one). Song et al. 2020, eq. 12 with
    sigma = 0; Ho & Salimans 2022, eq. 6 with 1 + w = guidance.
    """
    alpha_bar = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))
    stride = 1000 // steps
    text = prompt_embeds.repeat_interleave(NUM_FRAMES, dim=0)
    x = latents.double()
    for index in reversed(range(steps)):
        t = index * stride + 1
        with torch.inference_mode():
            noise_pred = pipeline.unet(x.float().expand(len(prompt_embeds), -1, -1, -1, -1), t, text).sample.double()
        noise_pred_uncond, noise_pred_text = noise_pred[:1], noise_pred[-1:]
        eps = noise_pred_uncond + guidance * (noise_pred_text - noise_pred_uncond)
        a = alpha_bar[t]
        a_next = alpha_bar[t - stride] if t - stride >= 0 else 1.0
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = a_next**0.5 * x0 + (1 - a_next) ** 0.5 * eps
    return x


@pytest.mark.parametrize(("steps", "guidance"), [(1, 7.5), (4, 7.5), (7, 1.0), (25, 3.0)])
def test_the_sampler_is_ddim_with_classifier_free_guidance(
    pipeline: Pipeline, stages: Stages, steps: int, guidance: float
) -> None:
    pipeline.load(CHECKPOINTS[0], MOTION_MODULES[1], stages)
    prompts = ["", "a blue square moving left"] if guidance > 1 else ["a blue square moving left"]
    with torch.inference_mode():
        embeds = encode_windows(pipeline.text_encoder, token_windows(pipeline.tokenizer, prompts))
        latents = noise((1, 4, NUM_FRAMES, 8, 8), seed=5)
        result = pipeline.denoise(latents, embeds, steps, guidance)
    expected = plain_ddim(pipeline, latents, embeds, steps, guidance)
    scale = float(expected.abs().max())
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.fixture
def unet_batches(pipeline: Pipeline) -> Iterator[list[int]]:
    """Yield a list that gets the batch size of each evaluation of the UNet."""
    batches: list[int] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    yield batches
    hook.remove()


@pytest.mark.parametrize(("guidance", "batch"), [(7.5, 2), (1.0, 1)])
def test_the_unet_is_evaluated_once_per_step_at_guidance_scale_1(
    pipeline: Pipeline, unet_batches: list[int], guidance: float, batch: int
) -> None:
    clip_of(pipeline, Inputs("a", "b", num_inference_steps=3, guidance_scale=guidance, seed=1))
    assert unet_batches == [batch] * 3


def test_the_negative_prompt_is_ignored_without_guidance(pipeline: Pipeline) -> None:
    clips = [
        clip_of(pipeline, Inputs("a cat", negative, num_inference_steps=2, guidance_scale=1, seed=4))
        for negative in ("", "dog " * 100)
    ]
    assert np.array_equal(*clips)


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "seed", "num_inference_steps", "guidance_scale"])
def test_each_input_changes_the_clip(pipeline: Pipeline, field: str) -> None:
    other = {
        "prompt": "a green cat",
        "negative_prompt": "",
        "seed": 12,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
    }
    changed = Inputs(**{**vars(INPUTS), field: other[field]})
    assert not np.array_equal(clip_of(pipeline), clip_of(pipeline, changed))


def test_the_size_is_the_native_size_of_the_weights(pipeline: Pipeline) -> None:
    # the UNet's sample_size 8 times the VAE's factor 8; Stable Diffusion 1.5 has 64 and 8, so 512
    assert clip_of(pipeline).shape == (16, 64, 64, 3)


def test_tokens_after_the_75th_change_the_clip(pipeline: Pipeline) -> None:
    start = "red " * 100
    clips = [clip_of(pipeline, Inputs(f"{start}{end}", num_inference_steps=2, seed=3)) for end in ("cat", "dog")]
    assert not np.array_equal(*clips)


@pytest.mark.parametrize("text", ["", "- dash", "日本 \U0001f980 é\u0301", "\x00\n\t", "x" * 20_000])
def test_any_text_is_a_prompt(pipeline: Pipeline, text: str) -> None:
    # 20,000 letters are 267 windows
    windows = token_windows(pipeline.tokenizer, [text])
    assert windows.ids.max() < pipeline.text_encoder.config.vocab_size
    assert clip_of(pipeline, Inputs(text[:2000], num_inference_steps=1, seed=1)).shape[0] == 16


def test_no_combination_of_weights_affects_the_next(pipeline: Pipeline, random_weights: Path) -> None:
    """All 15 combinations twice in random order, and three of them each as the first of a pipeline."""
    combinations = list(itertools.product(CHECKPOINTS, MOTION_MODULES))
    order = random.Random(0).sample(combinations * 2, 30)
    clips: dict[tuple[str, str], set[bytes]] = {}
    for checkpoint, motion in order:
        inputs = Inputs("a cat", checkpoint=checkpoint, motion_module=motion, num_inference_steps=1, seed=9)
        clips.setdefault((checkpoint, motion), set()).add(clip_of(pipeline, inputs).tobytes())
    assert {len(versions) for versions in clips.values()} == {1}
    assert len(set.union(*clips.values())) == 15

    # these three have each motion module once
    for checkpoint, motion in (combinations[0], combinations[7], combinations[14]):
        inputs = Inputs("a cat", checkpoint=checkpoint, motion_module=motion, num_inference_steps=1, seed=9)
        first = clip_of(Pipeline(store_of(random_weights), CPU), inputs).tobytes()
        assert clips[checkpoint, motion] == {first}


def test_a_cancel_while_a_checkpoint_is_copied_does_not_change_the_next_clip(
    pipeline: Pipeline, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cog raises a BaseException in the middle of any statement."""
    expected = clip_of(pipeline)
    pipeline.load(CHECKPOINTS[3], MOTION_MODULES[2], stages)
    copies = 0

    def copy_and_cancel(tensor: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        nonlocal copies
        copies += 1
        if copies == 100:
            raise KeyboardInterrupt
        return torch.Tensor.copy_.__get__(tensor)(source)

    monkeypatch.setattr(torch.nn.Parameter, "copy_", copy_and_cancel, raising=False)
    with pytest.raises(KeyboardInterrupt):
        pipeline.load(INPUTS.checkpoint, INPUTS.motion_module, stages)
    monkeypatch.undo()
    assert np.array_equal(clip_of(pipeline), expected)


def test_out_of_memory_is_reported_and_does_not_change_the_next_clip(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = clip_of(pipeline)
    calls = 0
    conv2d = torch.nn.functional.conv2d

    def conv2d_until_exhausted(*args: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 200:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return conv2d(*args)

    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d_until_exhausted)
    with (
        pytest.raises(OutOfMemory, match=r"cpu ran out of memory \(it has .* GB\); shorten the prompts"),
        out_of_memory(CPU, "shorten the prompts", pipeline.unload),
    ):
        clip_of(pipeline)
    monkeypatch.undo()
    assert np.array_equal(clip_of(pipeline), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_every_layer_runs_in_it_and_latents_stay_float32(
    random_weights: Path, dtype: torch.dtype
) -> None:
    half = Pipeline(store_of(random_weights), Device(torch.device("cpu"), dtype))
    dtypes: set[torch.dtype] = set()  # of all inputs and outputs of layers

    def record(module: torch.nn.Module, args: tuple[object, ...], output: object) -> None:
        dtypes.update(x.dtype for x in (*args, output) if isinstance(x, torch.Tensor) and x.is_floating_point())

    hooks = [
        module.register_forward_hook(record)
        for part in (half.unet, half.vae, half.text_encoder)
        for module in part.modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear | torch.nn.GroupNorm | torch.nn.LayerNorm)
    ]
    frames = clip_of(half)
    for hook in hooks:
        hook.remove()
    for part in (half.unet, half.vae, half.text_encoder):
        assert {p.dtype for p in part.parameters()} == {dtype}
        assert {b.dtype for b in part.buffers() if b.is_floating_point()} <= {dtype}
    assert dtypes == {dtype}
    assert frames.shape == (16, 64, 64, 3)
    with torch.inference_mode():
        latents = half.denoise(noise((1, 4, NUM_FRAMES, 8, 8), 1), torch.zeros(1, 77, 64, dtype=dtype), 1, 1.0)
    assert latents.dtype == torch.float32


def test_attention_never_builds_the_whole_matrix(pipeline: Pipeline) -> None:
    # this processor of diffusers calls torch's scaled_dot_product_attention; the others build the matrix
    processors = (*pipeline.unet.attn_processors.values(), *pipeline.vae.attn_processors.values())
    assert {type(processor).__name__ for processor in processors} == {"AttnProcessor2_0"}
