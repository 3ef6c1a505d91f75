"""Strict JSON: values that can be stored, sent to every client, and read again. RFC 8259."""

from __future__ import annotations

import json

import pytest
from predictions_api.strict_json import parse


def test_a_whole_number_with_a_decimal_point_or_exponent_is_an_integer() -> None:
    value = parse(b'{"steps": 4.0, "more": [2e3, 4.5, -0.0]}')
    assert value == {"steps": 4, "more": [2000, 4.5, 0]}
    assert isinstance(value["steps"], int)
    assert isinstance(value["more"][0], int)


def test_a_whole_number_too_large_for_a_float_is_exact() -> None:
    assert parse(b"1234567890123456789012345678901") == 1234567890123456789012345678901
    assert parse(b"1e300") == 1e300


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"\xff",
        '{"a": 1}'.encode("utf-16"),
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"9" * 400,
        b"-" + b"9" * 5000,
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b"[" * 65 + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b"[" * 1_000_000,
        b"[" + b"0," * 10_000 + b"0]",
        b'"' + b"\\n" * (2**20 + 1) + b'"',
    ],
)
def test_malformed_json_and_values_that_cannot_be_stored_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse(text)
    assert len(str(caught.value)) < 300


def test_json_with_64_levels_is_accepted() -> None:
    assert parse(b"[" * 64 + b"]" * 64)


@pytest.mark.parametrize("text", [b'","', b'"\\",\\\\"', b'"[{"', b'"data:,\\/"'])
def test_commas_and_brackets_in_strings_are_not_counted_as_values(text: bytes) -> None:
    many = b"[" + b",".join([text] * 5000) + b"]"
    assert parse(many) == [json.loads(text)] * 5000
    assert parse(b'"' + b",[{" * 100_000 + b'"') == ",[{" * 100_000


def test_escaped_letters_of_other_planes_are_accepted() -> None:
    assert parse(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_the_last_of_equal_keys_counts() -> None:
    assert parse(b'{"a": 1, "a": 2}') == {"a": 2}
