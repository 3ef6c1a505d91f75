"""The sampler against PLMS from the paper in float64, and what the frames of a path share."""

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

Predict = Callable[[torch.Tensor, int, int], torch.Tensor]  # the noise in x at timestep t, in step number n

# Adams-Bashforth's weights of the newest and the earlier predictions; arXiv 2202.09778, eq. 9 has order 4
ADAMS_BASHFORTH = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
# the step counts of issue 6, some of which crashed the original
COUNTS = [1, 2, 3, 9, 27, 36, 37, 101, 251, 333]

SHORT = Inputs(
    "a red circle", "a blue square", width=128, height=128, num_animation_frames=3, num_inference_steps=4, seed=11
)


def plain_plms(predict: Predict, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Pseudo linear multistep in float64 from Liu et al., arXiv 2202.09778, with Stable Diffusion 1.5's schedule.

    The schedule: sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012) over 1000 steps, alpha_bar their running product,
    "leading" timesteps with offset 1, the last step going to alpha_bar of timestep 0. The first step is one of
    Heun's kind instead of the paper's Runge-Kutta: predict, go, predict there, and go again with the mean of both.
    """
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    stride = 1000 // steps

    def transfer(x: torch.Tensor, eps: torch.Tensor, t: int) -> torch.Tensor:
        """Eq. 11."""
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


def assert_near(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours.double(), expected.double(), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def text_of(pipeline: Pipeline, *prompts: str) -> torch.Tensor:
    with torch.inference_mode():
        return encode_windows(pipeline.text_encoder, token_windows(pipeline.tokenizer, prompts))


def network(pipeline: Pipeline, texts: list[torch.Tensor], guidance: float) -> Predict:
    """Classifier-free guidance around the same UNet, of the text of each step; texts are (2, L, D), empty one first."""

    def predict(x: torch.Tensor, t: int, number: int) -> torch.Tensor:
        with torch.inference_mode():
            away, towards = pipeline.unet(x.float().repeat(2, 1, 1, 1), t, texts[number - 1]).sample.double().chunk(2)
        return away + guidance * (towards - away)

    return predict


@pytest.mark.parametrize("steps", [count for count in COUNTS if count < 40])
def test_the_sampler_is_plms_with_classifier_free_guidance(pipeline: Pipeline, steps: int) -> None:
    text = text_of(pipeline, "", "a blue square moving left")
    latents = noise((1, 4, 8, 8), seed=5)
    scheduler = make_scheduler(steps)
    with torch.inference_mode():
        timesteps = scheduler.timesteps.tolist()
        ours = pipeline.denoise(scheduler, latents, text[1:], text[:1], timesteps, 7.5, "test")
    assert_near(ours, plain_plms(network(pipeline, [text] * steps, 7.5), latents, steps))


@pytest.mark.parametrize("steps", [*COUNTS, 50, 500])
def test_every_step_count_samples_a_normal_distribution(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Around data that is normal with deviation 0.8, whose noise is known exactly, in place of the UNet."""
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)

    def exact(x: torch.Tensor, t: int, *_: object) -> torch.Tensor:
        # E[noise | x] for x = sqrt(a) * 0.8 * data + sqrt(1 - a) * noise
        a = float(alpha_bar[t])
        return (1 - a) ** 0.5 / (0.64 * a + 1 - a) * x

    monkeypatch.setattr(pipeline, "unet", lambda x, t, _: SimpleNamespace(sample=exact(x, t)))
    latents = noise((1, 4, 8, 8), seed=5)
    scheduler = make_scheduler(steps)
    timesteps = scheduler.timesteps.tolist()
    ours = pipeline.denoise(scheduler, latents, torch.zeros(1, 77, 64), None, timesteps, 1.0, "test")
    assert_near(ours, plain_plms(exact, latents, steps))
    if steps > 20:
        assert float(ours.std() / latents.std()) == pytest.approx(0.8, rel=0.02)


def path_of(pipeline: Pipeline, inputs: Inputs, pictures: FrameStore) -> torch.Tensor:
    assert inputs.seed is not None
    return pipeline.animate(inputs, inputs.seed, Stages(pipeline.device), pictures)


def test_a_frame_goes_on_from_the_shared_latent_and_its_history(pipeline: Pipeline, pictures: FrameStore) -> None:
    """One frame by itself: five steps on the middle's text, then three on its own, never starting anew."""
    inputs = Inputs("a red circle", "a cat|the sea", 128, 128, 2, num_inference_steps=8, prompt_strength=0.4, seed=2)
    latents = path_of(pipeline, inputs, pictures)
    empty, *prompts = text_of(pipeline, "", *inputs.prompts)
    for index, place in enumerate(frame_positions(3, 4)):
        middle, own = embeddings_at([1.0, place], torch.stack(prompts))
        texts = [torch.stack([empty, middle])] * 5 + [torch.stack([empty, own])] * 3
        expected = plain_plms(network(pipeline, texts, 7.5), noise((1, 4, 16, 16), 2), 8)
        assert_near(latents[index : index + 1], expected)


def test_first_and_last_frame_are_the_plain_pictures_of_their_prompts(pipeline: Pipeline, pictures: FrameStore) -> None:
    """With prompt_strength 1; the plain way is diffusers' PNDMScheduler in a loop, one prompt at a time."""
    inputs = Inputs(
        "a red circle", "a cat|the sea at night", 128, 128, 2, num_inference_steps=4, prompt_strength=1, seed=6
    )
    latents = path_of(pipeline, inputs, pictures)
    for index, prompt in ((0, "a red circle"), (-1, "the sea at night")):
        scheduler = PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        )
        scheduler.set_timesteps(4)
        x = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(6))
        text = text_of(pipeline, "", prompt)
        with torch.inference_mode():
            for t in scheduler.timesteps:
                e_u, e_c = pipeline.unet(torch.cat([x, x]), t, text).sample.chunk(2)
                x = scheduler.step(e_u + 7.5 * (e_c - e_u), t, x).prev_sample
            picture = pipeline.vae.decode(x / 0.18215).sample[0]
        assert_near(latents[index], x[0])
        levels = ((picture / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
        assert np.abs(pictures[index % len(pictures)] - levels).max() < 0.6  # rounding is half a level


@pytest.fixture
def evaluations(pipeline: Pipeline) -> Iterator[list[int]]:
    """The batch size of each evaluation of the UNet, as they happen."""
    batches: list[int] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    yield batches
    hook.remove()


@pytest.mark.parametrize(
    ("steps", "strength", "guidance", "expected"),
    [
        # k = 2 shared steps, 6 frames of 3: 2 + 1 + 6 * 3 (PLMS evaluates the first step of a path twice)
        (5, 0.6, 7.5, 2 * (2 + 1 + 6 * 3)),
        (5, 0.6, 1.0, 2 + 1 + 6 * 3),
        # nothing is shared: each frame's path has its own first step
        (5, 1.0, 7.5, 2 * 6 * (5 + 1)),
        # all is shared
        (5, 0.0, 7.5, 2 * (5 + 1)),
        (1, 1.0, 7.5, 2 * 6),
        (1, 0.0, 7.5, 2),
    ],
)
def test_the_shared_steps_are_done_once(
    pipeline: Pipeline,
    pictures: FrameStore,
    evaluations: list[int],
    steps: int,
    strength: float,
    guidance: float,
    expected: int,
) -> None:
    inputs = Inputs(
        "a", "b|c", 128, 128, 3, num_inference_steps=steps, prompt_strength=strength, guidance_scale=guidance, seed=1
    )
    path_of(pipeline, inputs, pictures)
    assert sum(evaluations) == expected


@pytest.mark.parametrize("batch", [1, 2])
def test_the_batch_size_changes_nothing_but_rounding(
    pipeline: Pipeline, pictures: FrameStore, monkeypatch: pytest.MonkeyPatch, evaluations: list[int], batch: int
) -> None:
    at_once = path_of(pipeline, SHORT, pictures)
    assert max(evaluations) == 2 * 3
    evaluations.clear()
    monkeypatch.setattr(pipeline, "batch_size", lambda *_, **__: batch)
    assert_near(path_of(pipeline, SHORT, pictures), at_once)
    assert max(evaluations) == 2 * batch


def test_a_batch_halves_with_guidance_and_with_the_picture(pipeline: Pipeline) -> None:
    one = pipeline.batch_size(16, 16, guided=False)
    assert one // 2 == pytest.approx(pipeline.batch_size(16, 16, guided=True), abs=1)
    assert one // 2 == pytest.approx(pipeline.batch_size(16, 32, guided=False), abs=1)
    assert pipeline.batch_size(10**6, 10**6, guided=True) == 1


def test_prompt_strength_0_makes_all_frames_the_middle_picture(pipeline: Pipeline, pictures: FrameStore) -> None:
    inputs = Inputs("a red circle", "a cat|the sea", 128, 128, 2, num_inference_steps=3, prompt_strength=0, seed=4)
    latents = path_of(pipeline, inputs, pictures)
    text = text_of(pipeline, "", "a cat")  # the middle of three prompts
    expected = plain_plms(network(pipeline, [text] * 3, 7.5), noise((1, 4, 16, 16), 4), 3)
    for frame in latents:
        assert_near(frame[None], expected)
