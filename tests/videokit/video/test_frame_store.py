"""Frames on disk, and ping-pong clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from videokit.video.frame_store import FrameStore, ping_pong


def noise_frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 6, 10, 3), dtype=np.uint8)


def test_frames_are_read_back_in_any_order(tmp_path: Path) -> None:
    frames = noise_frames(5)
    with FrameStore(tmp_path) as store:
        for frame in frames:
            store.append(frame)
        assert len(store) == 5
        assert np.array_equal(store[3], frames[3])
        assert np.array_equal(np.stack(list(store)), frames)
        with pytest.raises(IndexError):
            store[5]


def test_a_view_that_is_not_contiguous_is_stored(tmp_path: Path) -> None:
    frame = noise_frames(1)[0][:, ::-1]
    with FrameStore(tmp_path) as store:
        store.append(frame)
        assert np.array_equal(store[0], frame)


def test_a_store_has_no_file_name(tmp_path: Path) -> None:
    with FrameStore(tmp_path) as store:
        store.append(noise_frames(1)[0])
        assert list(tmp_path.iterdir()) == []


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
