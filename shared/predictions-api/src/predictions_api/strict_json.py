"""Parse JSON that is stored and answered again. What is accepted here can be written to any database and client."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, Final

MAX_DEPTH: Final = 64  # levels, far above any model's input; deep nesting could exhaust the stack
MAX_VALUES: Final = 10_000
MAX_ESCAPES: Final = 2**20  # PHP escapes each slash of base64: half of this in 32 MiB
_MAX_EXACT_INTEGER: Final = 2**53  # a float holds every whole number up to here exactly


def parse(text: bytes, *, max_values: int = MAX_VALUES, max_escapes: int = MAX_ESCAPES) -> Any:
    """Return the value of a JSON text. The last of equal keys in an object counts.

    JSON does not distinguish integers from floats, so 4.0 becomes the int 4. Raises ValueError for malformed JSON,
    other encodings than UTF-8, NaN, numbers that are too large for a float, lone surrogates, more than 64 levels, and
    more values or backslashes than allowed. Those are counted first, as the parser blocks all threads.
    """
    _check_size(text, max_values, max_escapes)
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_number, parse_float=_number, parse_int=_integer)
        is_deep = _is_deep(value)
    except RecursionError:
        is_deep = True
    if is_deep:
        raise ValueError(f"it has more than {MAX_DEPTH} levels")
    if b"\\u" in text:  # only an escape gives a lone surrogate
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _check_size(text: bytes, max_values: int, max_escapes: int) -> None:
    if text.count(b"\\") > max_escapes:
        raise ValueError(f"it has more than {max_escapes} backslashes")
    if _count_values(text) <= max_values:
        return
    outside_strings = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if outside_strings.count(b'"') <= 4 * max_values:  # two for each key and each string
        outside_strings = b"".join(outside_strings.split(b'"')[::2])
    if _count_values(outside_strings) > max_values:
        raise ValueError(f"it has more than {max_values} values")


def _count_values(text: bytes) -> int:
    """Return the number of commas and opening brackets, which is almost the number of values."""
    return sum(map(text.count, (b",", b"[", b"{")))


def _number(text: str) -> float | int:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return int(number) if number.is_integer() and abs(number) <= _MAX_EXACT_INTEGER else number


def _integer(text: str) -> int:
    if len(text) > sys.float_info.max_10_exp:
        _number(text)  # raises if it is too large for programs that read it as a float
    return int(text)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return bool(level)
