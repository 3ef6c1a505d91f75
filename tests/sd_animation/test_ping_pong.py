"""Ping-pong clips: the frames, then the same frames in reverse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sd_animation.ping_pong import ping_pong


def noise_frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 6, 10, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [2, 3, 11])
def test_a_ping_pong_clip_is_a_palindrome_with_both_ends_once(tmp_path: Path, count: int) -> None:
    frames = noise_frames(count)
    played = np.stack(list(ping_pong(iter(frames), tmp_path)))
    assert len(played) == 2 * count - 2
    assert np.array_equal(played[:count], frames)
    # The loop, played backwards from the first frame, is the same.
    assert np.array_equal(np.roll(played[::-1], 1, axis=0), played)


def test_ping_pong_yields_a_frame_before_it_takes_the_next(tmp_path: Path) -> None:
    count = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal count
        for frame in noise_frames(4):
            count += 1
            yield frame

    clip = ping_pong(source(), tmp_path)
    next(clip)
    assert count == 1
