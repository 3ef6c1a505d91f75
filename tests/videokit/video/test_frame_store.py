"""Frames on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from videokit.video.frame_store import FrameStore


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
