"""Seeds and the noise drawn from them."""

from __future__ import annotations

import pytest
import torch
from videokit.seeds import MAX_SEED, check_seed, noise, resolve_seed


def test_a_random_seed_is_new_each_time_and_in_the_documented_range() -> None:
    seeds = {resolve_seed(None) for _ in range(200)} | {resolve_seed(0, zero_is_random=True) for _ in range(200)}
    assert len(seeds) > 390  # of 400 draws from 2^31 - 1 values two may coincide; ten never do
    assert min(seeds) >= 1
    assert max(seeds) <= 2147483647


def test_zero_is_a_seed_by_default() -> None:
    assert resolve_seed(0) == 0
    assert check_seed(0) is None


@pytest.mark.parametrize("seed", [-0.0, 4.5])
def test_a_seed_that_is_not_a_whole_number_is_a_fault(seed: float) -> None:
    assert str(check_seed(seed)).startswith(f"seed={seed} is not a whole number; try ")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 10**30])
def test_a_seed_out_of_range_is_a_fault(seed: int) -> None:
    assert f"seed={seed} is out of range (0 to 2147483647)" in str(check_seed(seed))


def test_noise_depends_on_the_seed_alone_and_is_float32_on_the_cpu() -> None:
    torch.manual_seed(1)
    first = noise((2, 3), 42)
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(first, noise((2, 3), 42))
    assert torch.equal(state, torch.get_rng_state())  # the global generator does not change
    # the expected value: torch's own generator with the same seed
    assert torch.equal(first, torch.randn(2, 3, generator=torch.Generator().manual_seed(42)))
    assert (first.dtype, first.device.type) == (torch.float32, "cpu")
