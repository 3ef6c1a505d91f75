"""How many bytes animate-diff's cache of weights keeps, and what it drops first."""

from __future__ import annotations

import pytest
import torch
from animate_diff.cache import ByteLRU, convert_dtype


def test_the_least_recently_used_value_is_dropped_when_the_bytes_exceed_the_capacity() -> None:
    cache = ByteLRU(10)
    assert cache.get("a", lambda: (1, 4)) == 1
    assert cache.get("b", lambda: (2, 4)) == 2
    assert cache.get("a", lambda: pytest.fail("a is cached")) == 1
    assert cache.get("c", lambda: (3, 4)) == 3  # 12 bytes: b is dropped
    assert ("a" in cache, "b" in cache, "c" in cache, cache.held) == (True, False, True, 8)
    assert cache.get("huge", lambda: (4, 11)) == 4
    assert "huge" not in cache
    assert cache.get("mapped", lambda: (5, 0)) == 5
    assert "mapped" not in cache
    assert cache.held == 8
    cache.clear()
    assert ("a" in cache, cache.held) == (False, 0)


def test_a_value_whose_load_fails_is_not_cached() -> None:
    cache = ByteLRU(10)

    def interrupt() -> tuple[int, int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get("a", interrupt)
    assert cache.get("a", lambda: (5, 1)) == 5


def test_only_wider_tensors_are_converted() -> None:
    tensors = {"wide": torch.ones(8), "half": torch.ones(8, dtype=torch.bfloat16)}
    result, size = convert_dtype(tensors, torch.float16)
    assert result["wide"].dtype == torch.float16
    assert result["half"] is tensors["half"]
    assert size == 16
    assert convert_dtype(tensors, torch.float32) == (tensors, 0)
