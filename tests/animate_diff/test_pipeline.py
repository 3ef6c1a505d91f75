"""The method: what the sampler computes, what each input changes, and that a prediction leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
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

SHORT = Inputs("a red circle moving right", "blue", num_inference_steps=3, seed=11)


def clip_of(pipeline: Pipeline, inputs: Inputs = SHORT) -> np.ndarray:
    return np.stack(list(pipeline.generate(inputs, inputs.resolved_seed(), Stages(pipeline.device))))


def plain_ddim(
    pipeline: Pipeline, latents: torch.Tensor, prompt_embeds: torch.Tensor, steps: int, guidance: float
) -> torch.Tensor:
    """DDIM in float64 from the papers' equations, around the same UNet.

    Schedule: betas linear from 0.00085 to 0.012 over 1000 steps, alpha_bar their running product; "leading"
    timesteps with offset 1, the last step going to alpha_bar = 1 (set_alpha_to_one). Song et al. 2020, eq. 12 with
    sigma = 0; Ho & Salimans 2022, eq. 6 with 1 + w = guidance.
    """
    alpha_bar = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))
    stride = 1000 // steps
    text = prompt_embeds.repeat_interleave(NUM_FRAMES, dim=0)
    x = latents.double()
    for index in reversed(range(steps)):
        t = index * stride + 1
        with torch.inference_mode():
            both = pipeline.unet(x.float().expand(len(prompt_embeds), -1, -1, -1, -1), t, text).sample.double()
        eps = both[:1] + guidance * (both[1:] - both[:1]) if guidance > 1 else both
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
        ours = pipeline.denoise(latents, embeds, steps, guidance)
    expected = plain_ddim(pipeline, latents, embeds, steps, guidance)
    scale = float(expected.abs().max())
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.fixture
def unet_batches(pipeline: Pipeline) -> Iterator[list[int]]:
    """The batch size of each evaluation of the UNet, as they happen."""
    batches: list[int] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    yield batches
    hook.remove()


@pytest.mark.parametrize(("guidance", "batch"), [(7.5, 2), (1.0, 1)])
def test_guidance_scale_1_needs_no_second_pass(
    pipeline: Pipeline, unet_batches: list[int], guidance: float, batch: int
) -> None:
    clip_of(pipeline, Inputs("a", "b", num_inference_steps=3, guidance_scale=guidance, seed=1))
    assert unet_batches == [batch] * 3


def test_without_guidance_the_negative_prompt_says_nothing(pipeline: Pipeline) -> None:
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
    changed = Inputs(**{**vars(SHORT), field: other[field]})
    assert not np.array_equal(clip_of(pipeline), clip_of(pipeline, changed))


def test_the_size_follows_from_the_weights_own_configuration(pipeline: Pipeline) -> None:
    # UNet sample_size 8, times the VAE's factor of 8; Stable Diffusion 1.5 has 64 there, so 512
    assert clip_of(pipeline).shape == (16, 64, 64, 3)


def test_the_end_of_a_long_prompt_counts(pipeline: Pipeline) -> None:
    """CLIP's 77 positions end after 75 tokens; what stands behind must still be read."""
    start = "red " * 100
    clips = [clip_of(pipeline, Inputs(f"{start}{end}", num_inference_steps=2, seed=3)) for end in ("cat", "dog")]
    assert not np.array_equal(*clips)


@pytest.mark.parametrize("text", ["", "- dash", "日本 \U0001f980 é\u0301", "\x00\n\t", "x" * 20_000])
def test_any_text_is_a_prompt(pipeline: Pipeline, text: str) -> None:
    # \x00 and \t are words to the tokenizer as anything else is; 20,000 letters are 267 windows
    windows = token_windows(pipeline.tokenizer, [text])
    assert windows.ids.max() < pipeline.text_encoder.config.vocab_size
    assert clip_of(pipeline, Inputs(text[:2000], num_inference_steps=1, seed=1)).shape[0] == 16


def test_any_order_of_combinations_gives_what_each_gives_in_a_fresh_process(
    pipeline: Pipeline, random_weights: Path
) -> None:
    """No combination leaks into the next: all 15, twice in random order, and three against processes of their own."""
    combinations = list(itertools.product(CHECKPOINTS, MOTION_MODULES))
    order = random.Random(0).sample(combinations * 2, 30)
    clips: dict[tuple[str, str], set[bytes]] = {}
    for checkpoint, motion in order:
        inputs = Inputs("a cat", checkpoint=checkpoint, motion_module=motion, num_inference_steps=1, seed=9)
        clips.setdefault((checkpoint, motion), set()).add(clip_of(pipeline, inputs).tobytes())
    assert {len(seen) for seen in clips.values()} == {1}
    assert len(set.union(*clips.values())) == 15

    # three processes of their own, which between them have every checkpoint kind and motion kind first
    for checkpoint, motion in (combinations[0], combinations[7], combinations[14]):
        program = (
            "import sys; from pathlib import Path; from stores import CPU, store_of; "
            "from animate_diff.pipeline import Pipeline; from animate_diff.inputs import Inputs; "
            "from videokit.runtime import Stages; import numpy as np; "
            "p = Pipeline(store_of(Path(sys.argv[1])), CPU); "
            "i = Inputs('a cat', checkpoint=sys.argv[2], motion_module=sys.argv[3], num_inference_steps=1, seed=9); "
            "sys.stdout.buffer.write(np.stack(list(p.generate(i, 9, Stages(CPU)))).tobytes())"
        )
        fresh = subprocess.run(
            [sys.executable, "-c", program, str(random_weights), checkpoint, motion],
            # as many threads as here, for their number shows in the last digits
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        )
        assert clips[checkpoint, motion] == {fresh.stdout}


def test_switching_replaces_values_and_rebuilds_nothing(pipeline: Pipeline, stages: Stages) -> None:
    pipeline.load(CHECKPOINTS[0], MOTION_MODULES[0], stages)
    before = {name: p.data_ptr() for name, p in pipeline.unet.named_parameters()}
    modules = [id(module) for module in pipeline.unet.modules()]
    pipeline.load(CHECKPOINTS[2], MOTION_MODULES[2], stages)
    assert before == {name: p.data_ptr() for name, p in pipeline.unet.named_parameters()}
    assert modules == [id(module) for module in pipeline.unet.modules()]


def test_a_cancel_between_two_tensors_leaves_no_mixture(
    pipeline: Pipeline, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cog cancels by an exception that is no Exception, between any two bytecodes."""
    expected = clip_of(pipeline)
    pipeline.load(CHECKPOINTS[3], MOTION_MODULES[2], stages)
    copied = 0

    def cancelled(tensor: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        nonlocal copied
        copied += 1
        if copied == 100:
            raise KeyboardInterrupt
        return torch.Tensor.copy_.__get__(tensor)(source)

    original = torch.nn.Parameter.copy_
    monkeypatch.setattr(torch.nn.Parameter, "copy_", cancelled, raising=False)
    with pytest.raises(KeyboardInterrupt):
        pipeline.load(SHORT.checkpoint, SHORT.motion_module, stages)
    monkeypatch.undo()
    assert torch.nn.Parameter.copy_ is original
    assert np.array_equal(clip_of(pipeline), expected)


def test_out_of_memory_is_told_and_the_next_prediction_is_right(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = clip_of(pipeline)
    calls = 0
    conv2d = torch.nn.functional.conv2d

    def exhausted(*args: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 200:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return conv2d(*args)

    monkeypatch.setattr(torch.nn.functional, "conv2d", exhausted)
    with (
        pytest.raises(OutOfMemory, match=r"cpu ran out of memory \(it has .* GB\); shorten the prompts"),
        out_of_memory(CPU, "shorten the prompts", pipeline.unload),
    ):
        clip_of(pipeline)
    monkeypatch.undo()
    assert np.array_equal(clip_of(pipeline), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_no_parameter_stays_float32_on_a_half_precision_run(random_weights: Path, dtype: torch.dtype) -> None:
    half = Pipeline(store_of(random_weights), Device(torch.device("cpu"), dtype))
    seen: set[torch.dtype] = set()

    def note(module: torch.nn.Module, args: tuple[object, ...], output: object) -> None:
        seen.update(x.dtype for x in (*args, output) if isinstance(x, torch.Tensor) and x.is_floating_point())

    hooks = [
        module.register_forward_hook(note)
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
    assert seen == {dtype}  # no layer worked in float32 either
    assert frames.shape == (16, 64, 64, 3)


def test_latents_and_guidance_stay_float32_on_a_half_precision_run(random_weights: Path, stages: Stages) -> None:
    half = Pipeline(store_of(random_weights), Device(torch.device("cpu"), torch.bfloat16))
    half.load(CHECKPOINTS[0], MOTION_MODULES[0], stages)
    embeds = torch.zeros(1, 77, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert half.denoise(noise((1, 4, NUM_FRAMES, 8, 8), 1), embeds, 1, 1.0).dtype == torch.float32


def test_attention_is_torchs_own(pipeline: Pipeline) -> None:
    # diffusers' processor around torch's scaled_dot_product_attention; its other ones build the whole matrix
    processors = (*pipeline.unet.attn_processors.values(), *pipeline.vae.attn_processors.values())
    assert {type(processor).__name__ for processor in processors} == {"AttnProcessor2_0"}
