"""Errors, seeds, sizes, frames and the cache: the small parts that everything stands on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from animate_diff.cache import ByteLRU
from videokit import checks
from videokit.errors import InvalidInput, refuse
from videokit.seeds import MAX_SEED, noise, resolve_seed, seed_fault
from videokit.video.frames import check_frames, frames_from_tensor


def test_all_faults_are_raised_together_one_a_line() -> None:
    with pytest.raises(InvalidInput) as raised:
        refuse(None, "a=1 is wrong", None, "b=2 is wrong")
    assert str(raised.value) == "a=1 is wrong\nb=2 is wrong"
    assert raised.value.faults == ("a=1 is wrong", "b=2 is wrong")


def test_no_fault_raises_nothing() -> None:
    refuse(None, None)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (checks.multiple_of("width", 500, 8, 256), "width=500 is not a multiple of 8; try 496 or 504"),
        (
            checks.multiple_of("width", 1023, 8, 256, 1023),
            "width=1023 is outside what is allowed (256 to 1016); try 1016",
        ),
        (checks.multiple_of("width", 250, 8, 250), "width=250 is outside what is allowed (at least 256); try 256"),
        (checks.multiple_of("height", 259, 8, 256, 260), "height=259 is outside what is allowed (256 to 256); try 256"),
        (checks.multiple_of("width", 512, 8, 256), None),
        (checks.even("height", 301), "height=301 is not a multiple of 2; try 300 or 302"),
        (checks.even("height", 0), "height=0 is outside what is allowed (at least 2); try 2"),
        (checks.even("height", 2), None),
        (
            checks.frame_count("num_frames", 40, 24, "the memory of this device"),
            "num_frames=40 is outside what is allowed (1 to 24); try 24 (the memory of this device)",
        ),
        (checks.frame_count("num_frames", 0, 24, "x"), "num_frames=0 is outside what is allowed (1 to 24); try 1 (x)"),
        (checks.frame_count("num_frames", 24, 24, "x"), None),
        (checks.one_of("format", "webm", ("gif", "mp4")), "format=webm is unknown; it is one of gif, mp4"),
        (checks.one_of("width", 512, (256, 512)), None),
        (checks.in_range("w", float("nan"), 0, 1), "w=nan is outside what is allowed (0 to 1); try 0"),
    ],
)
def test_a_wrong_size_names_the_nearest_allowed_ones(fault: str | None, message: str | None) -> None:
    assert fault == message


def test_a_random_seed_is_new_each_time_and_documentable() -> None:
    seeds = {resolve_seed(None) for _ in range(200)} | {resolve_seed(0, zero_is_random=True) for _ in range(200)}
    assert len(seeds) > 390  # of 400 draws from 2^31 - 1 values two may coincide; ten never do
    assert min(seeds) >= 1
    assert max(seeds) <= 2147483647


def test_zero_is_a_seed_where_the_contract_does_not_say_otherwise() -> None:
    assert resolve_seed(0) == 0
    assert seed_fault(0) is None


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 10**30])
def test_a_seed_out_of_range_is_a_fault(seed: int) -> None:
    assert f"seed={seed} is outside what is allowed (0 to 2147483647)" in str(seed_fault(seed))


def test_noise_comes_from_the_seed_alone_and_is_float32_on_the_cpu() -> None:
    torch.manual_seed(1)
    first = noise((2, 3), 42)
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(first, noise((2, 3), 42))
    assert torch.equal(state, torch.get_rng_state())  # and the global generator is left alone
    # torch's own documented generator, seeded the same way
    assert torch.equal(first, torch.randn(2, 3, generator=torch.Generator().manual_seed(42)))
    assert (first.dtype, first.device.type) == (torch.float32, "cpu")


def test_pictures_are_rounded_to_nearest_not_cut() -> None:
    values = torch.tensor([-2.0, -1.0, -0.999, 0.0, 0.99, 1.0, 3.0])
    frames = frames_from_tensor(values.view(-1, 1, 1, 1).expand(-1, 3, 2, 2).half())
    # (v + 1) * 127.5: -0.999 in half is -0.99902 -> 0.12, 0 -> 127.5 (to even: 128), 0.99 in half is 0.98975 -> 253.69
    assert frames[:, 0, 0, 0].tolist() == [0, 0, 0, 128, 254, 255, 255]
    assert frames.shape == (7, 2, 2, 3)
    assert frames.dtype == np.uint8
    assert frames.flags.c_contiguous


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), TypeError, "frame 1 is float32"),
        ([[0]], TypeError, "frame 1 is list"),
        (np.zeros((4, 4), np.uint8), ValueError, r"frame 1 has shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"frame 1 has shape \(4, 4, 4\)"),
        (np.zeros((4, 6, 3), np.uint8), ValueError, r"frame 1 has shape \(4, 6, 3\), those before it \(4, 4, 3\)"),
    ],
)
def test_a_frame_of_another_form_is_refused_by_its_number(bad: object, error: type[Exception], message: str) -> None:
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(error, match=message):
        list(check_frames([good, bad]))  # type: ignore[list-item]


def test_the_cache_forgets_what_was_used_longest_ago_and_stays_within_its_bytes() -> None:
    cache = ByteLRU(10)
    assert cache.get("a", lambda: (1, 4)) == 1
    assert cache.get("b", lambda: (2, 4)) == 2
    assert cache.get("a", lambda: pytest.fail("a is held")) == 1
    assert cache.get("c", lambda: (3, 4)) == 3  # 12 bytes: b goes
    assert ("a" in cache, "b" in cache, "c" in cache, cache.held) == (True, False, True, 8)
    assert cache.get("huge", lambda: (4, 11)) == 4
    assert "huge" not in cache
    assert cache.get("mapped", lambda: (5, 0)) == 5
    assert "mapped" not in cache
    assert cache.held == 8
    cache.clear()
    assert ("a" in cache, cache.held) == (False, 0)


def test_a_value_that_cannot_be_made_is_not_held() -> None:
    cache = ByteLRU(10)

    def cancelled() -> tuple[int, int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get("a", cancelled)
    assert cache.get("a", lambda: (5, 1)) == 5


@pytest.mark.parametrize(
    "module",
    ["errors", "seeds", "checks", "weights.store", "video.frames", "video.encode", "video.decode", "video.provenance"],
)
def test_what_needs_no_network_imports_no_torch(module: str) -> None:
    program = f"import sys, videokit.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})
