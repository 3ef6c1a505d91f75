"""The sampler compared with PLMS from the paper in float64, and the steps that the keyframes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler
from sd_animation.inputs import Inputs
from sd_animation.pipeline import Pipeline, make_scheduler
from sd_animation.prompt_walk import embeddings_at, frame_positions
from videokit.prompts import encode_windows, token_windows
from videokit.runtime import Stages
from videokit.seeds import noise
from videokit.video.frame_store import FrameStore

Predict = Callable[[torch.Tensor, int, int], torch.Tensor]  # noise_pred from (x, timestep, number of the step)

# Adams-Bashforth's weights of the newest and the earlier predictions; arXiv 2202.09778, eq. 9 has order 4
ADAMS_BASHFORTH = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
# step counts, some of which crashed the original
COUNTS = [1, 2, 3, 9, 27, 36, 37, 101, 251, 333]

INPUTS = Inputs(
    "a red circle", "a blue square", width=128, height=128, num_animation_frames=3, num_inference_steps=4, seed=11
)


def plain_plms(predict: Predict, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the result of PLMS in float64 by Liu et al., arXiv 2202.09778, with Stable Diffusion 1.5's schedule.

    Schedule: sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012) over 1000 steps, alpha_bar is 1 - beta multiplied up;
    "leading" timesteps with offset 1; after the last step alpha_bar is that of timestep 0. The first step is Heun's
    instead of the paper's Runge-Kutta: it uses the mean of the predictions before and after a trial step.
    """
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    stride = 1000 // steps

    def transfer(x: torch.Tensor, eps: torch.Tensor, t: int) -> torch.Tensor:
        """Return x after a step, eq. 11."""
        a, b = alpha_bar[t], alpha_bar[max(t - stride, 0)]
        return (b / a) ** 0.5 * x - (b - a) / (a**0.5 * (((1 - b) * a) ** 0.5 + ((1 - a) * b) ** 0.5)) * eps

    x, history = x.double(), []
    for number, t in enumerate(reversed(range(1, 1 + steps * stride, stride)), start=1):
        eps = predict(x, t, number)
        history = [eps, *history][:4]
        if len(history) > 1:
            eps = sum(weight * e for weight, e in zip(ADAMS_BASHFORTH[len(history)], history, strict=True))
        elif steps > 1:
            eps = (eps + predict(transfer(x, eps, t), t - stride, number)) / 2
        x = transfer(x, eps, t)
    return x


def assert_near(result: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(result.double(), expected.double(), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def text_of(pipeline: Pipeline, *prompts: str) -> torch.Tensor:
    with torch.inference_mode():
        return encode_windows(pipeline.text_encoder, token_windows(pipeline.tokenizer, prompts))


def network(pipeline: Pipeline, texts: list[torch.Tensor], guidance: float) -> Predict:
    """Return classifier-free guidance with the pipeline's UNet; `texts` has (2, L, D) for each step, empty first."""

    def predict(x: torch.Tensor, t: int, number: int) -> torch.Tensor:
        with torch.inference_mode():
            noise_pred = pipeline.unet(x.float().repeat(2, 1, 1, 1), t, texts[number - 1]).sample.double()
        noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
        return noise_pred_uncond + guidance * (noise_pred_text - noise_pred_uncond)

    return predict


@pytest.mark.parametrize("steps", [count for count in COUNTS if count < 40])
def test_the_sampler_is_plms_with_classifier_free_guidance(pipeline: Pipeline, steps: int) -> None:
    text = text_of(pipeline, "", "a blue square moving left")
    latents = noise((1, 4, 8, 8), seed=5)
    scheduler = make_scheduler(steps)
    with torch.inference_mode():
        timesteps = scheduler.timesteps.tolist()
        result = pipeline.denoise(scheduler, latents, text[1:], text[:1], timesteps, 7.5, "test")
    assert_near(result, plain_plms(network(pipeline, [text] * steps, 7.5), latents, steps))


@pytest.mark.parametrize("steps", [*COUNTS, 50, 500])
def test_every_step_count_samples_a_normal_distribution(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The data are normal with deviation 0.8, so the noise is known exactly and replaces the UNet's prediction."""
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)

    def exact(x: torch.Tensor, t: int, *_: object) -> torch.Tensor:
        # E[noise | x] for x = sqrt(a) * 0.8 * data + sqrt(1 - a) * noise
        a = float(alpha_bar[t])
        return (1 - a) ** 0.5 / (0.64 * a + 1 - a) * x

    monkeypatch.setattr(pipeline, "unet", lambda x, t, _: SimpleNamespace(sample=exact(x, t)))
    latents = noise((1, 4, 8, 8), seed=5)
    scheduler = make_scheduler(steps)
    timesteps = scheduler.timesteps.tolist()
    result = pipeline.denoise(scheduler, latents, torch.zeros(1, 77, 64), None, timesteps, 1.0, "test")
    assert_near(result, plain_plms(exact, latents, steps))
    if steps > 20:
        assert float(result.std() / latents.std()) == pytest.approx(0.8, rel=0.02)


def animate(pipeline: Pipeline, inputs: Inputs, keyframes: FrameStore) -> torch.Tensor:
    assert inputs.seed is not None
    return pipeline.animate(inputs, inputs.seed, Stages(pipeline.device), keyframes)


def test_a_keyframe_continues_from_the_shared_latents_and_their_history(
    pipeline: Pipeline, keyframes: FrameStore
) -> None:
    """A keyframe has five steps with the text of the middle, then three with its own, in one multistep history."""
    inputs = Inputs("a red circle", "a cat|the sea", 128, 128, 2, num_inference_steps=8, prompt_strength=0.4, seed=2)
    latents = animate(pipeline, inputs, keyframes)
    empty, *prompts = text_of(pipeline, "", *inputs.prompts)
    for index, position in enumerate(frame_positions(3, 4)):
        middle, text = embeddings_at([1.0, position], torch.stack(prompts))
        texts = [torch.stack([empty, middle])] * 5 + [torch.stack([empty, text])] * 3
        expected = plain_plms(network(pipeline, texts, 7.5), noise((1, 4, 16, 16), 2), 8)
        assert_near(latents[index : index + 1], expected)


def test_the_first_and_last_keyframe_equal_images_of_their_prompts_alone(
    pipeline: Pipeline, keyframes: FrameStore
) -> None:
    """At prompt_strength 1, compared with a loop over diffusers' PNDMScheduler for one prompt."""
    inputs = Inputs(
        "a red circle", "a cat|the sea at night", 128, 128, 2, num_inference_steps=4, prompt_strength=1, seed=6
    )
    latents = animate(pipeline, inputs, keyframes)
    for index, prompt in ((0, "a red circle"), (-1, "the sea at night")):
        scheduler = PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        )
        scheduler.set_timesteps(4)
        x = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(6))
        text = text_of(pipeline, "", prompt)
        with torch.inference_mode():
            for t in scheduler.timesteps:
                noise_pred_uncond, noise_pred_text = pipeline.unet(torch.cat([x, x]), t, text).sample.chunk(2)
                noise_pred = noise_pred_uncond + 7.5 * (noise_pred_text - noise_pred_uncond)
                x = scheduler.step(noise_pred, t, x).prev_sample
            image = pipeline.vae.decode(x / 0.18215).sample[0]
        assert_near(latents[index], x[0])
        levels = ((image / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
        assert np.abs(keyframes[index % len(keyframes)] - levels).max() < 0.6  # rounding is half a level


@pytest.fixture
def evaluations(pipeline: Pipeline) -> Iterator[list[int]]:
    """Yield a list that gets the batch size of each evaluation of the UNet."""
    batches: list[int] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    yield batches
    hook.remove()


@pytest.mark.parametrize(
    ("steps", "strength", "guidance", "expected"),
    [
        # 2 shared steps, then 3 for each of 6 keyframes; PLMS evaluates its first step twice
        (5, 0.6, 7.5, 2 * (2 + 1 + 6 * 3)),
        (5, 0.6, 1.0, 2 + 1 + 6 * 3),
        # no step is shared: each keyframe has its own first step
        (5, 1.0, 7.5, 2 * 6 * (5 + 1)),
        # all steps are shared
        (5, 0.0, 7.5, 2 * (5 + 1)),
        (1, 1.0, 7.5, 2 * 6),
        (1, 0.0, 7.5, 2),
    ],
)
def test_the_shared_steps_are_computed_once(
    pipeline: Pipeline,
    keyframes: FrameStore,
    evaluations: list[int],
    steps: int,
    strength: float,
    guidance: float,
    expected: int,
) -> None:
    inputs = Inputs(
        "a", "b|c", 128, 128, 3, num_inference_steps=steps, prompt_strength=strength, guidance_scale=guidance, seed=1
    )
    animate(pipeline, inputs, keyframes)
    assert sum(evaluations) == expected


@pytest.mark.parametrize("batch", [1, 2])
def test_the_batch_size_changes_only_the_rounding(
    pipeline: Pipeline, keyframes: FrameStore, monkeypatch: pytest.MonkeyPatch, evaluations: list[int], batch: int
) -> None:
    one_batch = animate(pipeline, INPUTS, keyframes)
    assert max(evaluations) == 2 * 3
    evaluations.clear()
    monkeypatch.setattr(pipeline, "batch_size", lambda *_, **__: batch)
    assert_near(animate(pipeline, INPUTS, keyframes), one_batch)
    assert max(evaluations) == 2 * batch


def test_a_batch_is_half_as_large_with_guidance_or_twice_the_pixels(pipeline: Pipeline) -> None:
    size = pipeline.batch_size(16, 16, guided=False)
    assert size // 2 == pytest.approx(pipeline.batch_size(16, 16, guided=True), abs=1)
    assert size // 2 == pytest.approx(pipeline.batch_size(16, 32, guided=False), abs=1)
    assert pipeline.batch_size(10**6, 10**6, guided=True) == 1


def test_prompt_strength_0_makes_all_keyframes_that_of_the_middle(pipeline: Pipeline, keyframes: FrameStore) -> None:
    inputs = Inputs("a red circle", "a cat|the sea", 128, 128, 2, num_inference_steps=3, prompt_strength=0, seed=4)
    latents = animate(pipeline, inputs, keyframes)
    text = text_of(pipeline, "", "a cat")  # the middle of three prompts
    expected = plain_plms(network(pipeline, [text] * 3, 7.5), noise((1, 4, 16, 16), 4), 3)
    for frame in latents:
        assert_near(frame[None], expected)
