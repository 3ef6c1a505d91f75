"""The positions of the frames on the walk through the prompts, and the embedding at a position."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sd_animation.prompt_walk import embeddings_at, frame_positions, slerp


@pytest.mark.parametrize(("prompts", "frames"), [(2, 2), (2, 10), (3, 20), (4, 7)])
def test_positions_are_even_from_the_first_prompt_to_the_last(prompts: int, frames: int) -> None:
    positions = frame_positions(prompts, frames)
    assert (positions[0], positions[-1], len(positions)) == (0, prompts - 1, frames)
    assert np.allclose(np.diff(positions), (prompts - 1) / (frames - 1))


def test_at_the_position_of_a_prompt_the_embedding_equals_that_of_the_prompt() -> None:
    prompts = torch.randn(4, 77, 8)
    assert torch.equal(embeddings_at([0, 1, 2, 3], prompts), prompts)


@pytest.mark.parametrize("t", [0.1, 0.25, 0.5, 0.9])
def test_slerp_keeps_the_length_and_divides_the_angle(t: float) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 7))
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    between = slerp(torch.tensor(a), torch.tensor(b), t).double().numpy()

    def angle(x: np.ndarray, y: np.ndarray) -> float:
        return math.acos((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))

    assert np.linalg.norm(between) == pytest.approx(np.linalg.norm(a), rel=1e-6)
    assert angle(a, between) == pytest.approx(t * angle(a, b), rel=1e-5)
    assert angle(between, b) == pytest.approx((1 - t) * angle(a, b), rel=1e-5)


@pytest.mark.parametrize("b", [torch.ones(3), torch.zeros(3), torch.tensor([1.0, 1.0, 1.001])])
def test_nearly_parallel_vectors_and_zeros_are_interpolated_linearly(b: torch.Tensor) -> None:
    torch.testing.assert_close(slerp(torch.ones(3), b, 0.25), 0.75 * torch.ones(3) + 0.25 * b)


def test_slerp_of_half_precision_does_not_overflow() -> None:
    # CLIP's embeddings have a norm of about 250 and values over 30; the sum of squares exceeds 65504
    a, b = (28 * torch.randn(2, 77, 768, generator=torch.Generator().manual_seed(0))).half()
    between = slerp(a, b, 0.5)
    assert between.dtype == torch.float32
    torch.testing.assert_close(between, slerp(a.double(), b.double(), 0.5), rtol=1e-3, atol=1e-2)
