"""The one form of a frame: (H, W, 3) uint8 RGB."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from videokit.video.frames import check_frames, frames_from_tensor


def test_pictures_are_rounded_to_nearest() -> None:
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
def test_a_frame_of_another_form_is_reported_by_its_index(bad: object, error: type[Exception], message: str) -> None:
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(error, match=message):
        list(check_frames([good, bad]))  # type: ignore[list-item]
