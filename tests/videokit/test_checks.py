"""Checks of numbers and choices name the nearest allowed values."""

from __future__ import annotations

import pytest
from videokit.checks import (
    check_choice,
    check_count,
    check_multiple,
    check_range,
    check_text,
    check_whole,
    shown,
    whole_number,
)


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
        (check_count("n", 25, 1, 24), "n=25 is out of range (1 to 24); try 24"),
        (check_count("n", 4.5, 1, 24), "n=4.5 is not a whole number; try 4 or 5"),
        (check_count("n", -0.0, 1, 24), "n=-0.0 is out of range (1 to 24); try 1"),
        (check_count("n", float("inf"), 1), "n=inf is not a whole number"),
        (check_count("n", 4, 1, 24), None),
        (check_whole("seed", -0.0), "seed=-0.0 is not a whole number; try 0"),
        (check_whole("seed", float("nan")), "seed=nan is not a whole number"),
        (check_multiple("width", 512.5, 8, 256), "width=512.5 is not a whole number; try 512 or 513"),
        (check_multiple("width", float("inf"), 8, 256), "width=inf is not a whole number"),
        (
            check_choice("model", "x\ny" + "z" * 1000, ("a", "b")),
            f"model=x\\ny{'z' * 77}... (1003 characters) is unknown; choose one of a, b",
        ),
        (
            check_text("prompt", "circle \ud83d"),
            "prompt: character 8 is half of a surrogate pair, not Unicode; remove or replace it",
        ),
        (check_text("prompt", "\U0001f534 \u8d64 \x00"), None),
    ],
)
def test_an_invalid_value_is_reported_with_the_nearest_allowed_ones(fault: str | None, message: str | None) -> None:
    assert fault == message


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4.0, 4), (-3.0, -3), (2.0**53, 2**53), (7, 7), (True, True), (None, None), ("4.0", "4.0")],
)
def test_a_whole_float_becomes_an_integer(value: object, expected: object) -> None:
    result = whole_number(value)
    assert (result, type(result)) == (expected, type(expected))


@pytest.mark.parametrize("value", [4.5, -0.0, 1e30, float("inf"), float("nan")])
def test_other_floats_are_left_for_the_checks_to_report(value: float) -> None:
    assert whole_number(value) is value


def test_a_text_is_shown_in_one_line_and_shortened() -> None:
    assert shown("ftp://host/x") == "ftp://host/x"
    assert shown("a\nb\x00\ud800") == r"a\nb\x00\ud800"
    assert shown("a" * 1_000_000) == "a" * 80 + "... (1000000 characters)"
