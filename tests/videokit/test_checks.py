"""Checks of numbers and choices name the nearest allowed values."""

from __future__ import annotations

import pytest
from videokit.checks import check_choice, check_multiple, check_range


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (check_multiple("width", 500, 8, 256), "width=500 is not a multiple of 8; try 496 or 504"),
        (check_multiple("width", 1023, 8, 256, 1023), "width=1023 is out of range (256 to 1016); try 1016"),
        (check_multiple("width", 250, 8, 250), "width=250 is out of range (at least 256); try 256"),
        (check_multiple("height", 259, 8, 256, 260), "height=259 is out of range (256 to 256); try 256"),
        (check_multiple("width", 512, 8, 256), None),
        (check_multiple("height", 301, 2, 2), "height=301 is not a multiple of 2; try 300 or 302"),
        (check_multiple("height", 0, 2, 2), "height=0 is out of range (at least 2); try 2"),
        (check_multiple("height", 2, 2, 2), None),
        (check_choice("format", "webm", ("gif", "mp4")), "format=webm is unknown; choose one of gif, mp4"),
        (check_choice("width", 512, (256, 512)), None),
        (check_range("num_frames", 40, 1, 24), "num_frames=40 is out of range (1 to 24); try 24"),
        (check_range("num_frames", 0, 1, 24), "num_frames=0 is out of range (1 to 24); try 1"),
        (check_range("num_frames", 24, 1, 24), None),
        (check_range("w", float("nan"), 0, 1), "w=nan is out of range (0 to 1); try 0"),
    ],
)
def test_an_invalid_value_is_reported_with_the_nearest_allowed_ones(fault: str | None, message: str | None) -> None:
    assert fault == message
