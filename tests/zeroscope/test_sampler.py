"""The sampler compared with DPM-Solver++ (2M) from the paper in float64, and the step at which a video enters."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from reference_dpm_solver import Predict, alpha_bars, plain_dpm_solver, timesteps_of
from videokit.prompts import encode_windows, token_windows
from videokit.seeds import noise
from zeroscope.inputs import Inputs
from zeroscope.models import Model
from zeroscope.pipeline import Pipeline
from zeroscope.sampler import denoise, make_scheduler, start_index

SHAPE = (1, 4, 2, 8, 8)


def network(model: Model, text: torch.Tensor, guidance: float) -> Predict:
    """Return classifier-free guidance (arXiv 2207.12598, eq. 6) with the model's UNet; `text` is (2 or 1, L, D)."""

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        with torch.inference_mode():
            noise_pred = model.unet(x.float().expand(len(text), -1, -1, -1, -1), t, text).sample.double()
        noise_pred_uncond, noise_pred_text = noise_pred[:1], noise_pred[-1:]
        return noise_pred_uncond + guidance * (noise_pred_text - noise_pred_uncond)

    return predict


def assert_near(result: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(result.double(), expected.double(), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def model(pipeline: Pipeline) -> Model:
    """Return a model with a tenth of the UNet's output, because a random UNet amplifies rounding errors."""
    model = pipeline.models.get("576w")
    unet = copy.deepcopy(model.unet)
    with torch.no_grad():
        unet.conv_out.weight.mul_(0.1)
    return dataclasses.replace(model, unet=unet)


@pytest.fixture(scope="module")
def text(model: Model) -> torch.Tensor:
    with torch.inference_mode():
        return encode_windows(model.text_encoder, token_windows(model.tokenizer, ["blue", "a red circle"]))


@pytest.fixture
def evaluations(model: Model) -> Iterator[list[int]]:
    """Yield a list that gets the batch size of each evaluation of the UNet."""
    batches: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    yield batches
    hook.remove()


@pytest.mark.parametrize(("steps", "guidance"), [(1, 7.5), (2, 7.5), (5, 7.5), (14, 1.0), (15, 3.0), (25, 7.5)])
def test_text_to_video_is_dpm_solver_with_classifier_free_guidance(
    model: Model, text: torch.Tensor, steps: int, guidance: float
) -> None:
    text = text if guidance > 1 else text[1:]
    with torch.inference_mode():
        result = denoise(model.unet, make_scheduler(model.scheduler, steps), noise(SHAPE, 5), text, guidance, 0, "test")
    assert_near(result, plain_dpm_solver(network(model, text, guidance), noise(SHAPE, 5), steps))


@pytest.mark.parametrize(("weight", "steps"), [(0.25, 20), (0.5, 20), (0.9, 20), (0.25, 10)])
def test_a_video_enters_with_the_noise_of_its_step(
    pipeline: Pipeline, model: Model, text: torch.Tensor, evaluations: list[int], weight: float, steps: int
) -> None:
    """A video replaces round(w N) of the N steps; the others are evaluated twice, with guidance."""
    mean, deviation = noise(SHAPE, 7), noise(SHAPE, 8).abs()
    scheduler, start = make_scheduler(model.scheduler, steps), start_index(weight, steps)
    with torch.inference_mode():
        size = Inputs("", num_frames=SHAPE[2], height=8 * SHAPE[3], width=8 * SHAPE[4])
        latents = pipeline.prepare_latents(model, scheduler, (mean, deviation), start, size, seed=5)
        result = denoise(model.unet, scheduler, latents, text, 7.5, start, "test")
    assert sum(evaluations) == 2 * (steps - round(weight * steps))

    first = round(weight * steps)
    initial, sampling = noise((2, *SHAPE), 5).double()
    video = 0.18215 * (mean + deviation * sampling)  # the scaling_factor of the published vae/config.json
    alpha_bar = alpha_bars()[timesteps_of(steps)[first]]
    noisy = alpha_bar**0.5 * video + (1 - alpha_bar) ** 0.5 * initial
    assert_near(result, plain_dpm_solver(network(model, text, 7.5), noisy, steps, first))


@pytest.mark.parametrize(
    ("weight", "steps", "start"),
    # a half rounds to even, as in the original
    [(0, 50, 0), (1, 50, 50), (0.5, 50, 25), (0.25, 10, 2), (0.35, 10, 4), (0.001, 50, 0), (0.9, 1, 1), (0.5, 1, 0)],
)
def test_the_start_is_rounded_to_nearest(weight: float, steps: int, start: int) -> None:
    assert start_index(weight, steps) == start


@pytest.mark.parametrize("steps", [1, 3, 25, 50, 500])
def test_every_step_count_samples_a_normal_distribution(model: Model, steps: int) -> None:
    """The data are normal with deviation 0.8, so the noise is known exactly and replaces the UNet's prediction."""
    alpha_bar = alpha_bars()

    def exact(x: torch.Tensor, t: int) -> torch.Tensor:
        # E[noise | x] for x = sqrt(a) * 0.8 * data + sqrt(1 - a) * noise
        a = float(alpha_bar[int(t)])
        return (1 - a) ** 0.5 / (0.64 * a + 1 - a) * x

    scheduler, x = make_scheduler(model.scheduler, steps), noise(SHAPE, 1)
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(exact(x, t), t, x).prev_sample
    assert_near(x, plain_dpm_solver(exact, noise(SHAPE, 1), steps))
    if steps >= 50:
        assert float(x.std() / noise(SHAPE, 1).std()) == pytest.approx(0.8, rel=0.03)
