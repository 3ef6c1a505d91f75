"""Checks of numbers, choices and texts. Each returns what is wrong, or None; `errors.raise_faults` raises all together.

Nothing is rounded here. The text names the nearest allowed values.
"""

from __future__ import annotations

import math

MAX_EXACT_INTEGER = 2**53  # up to it, a float of IEEE 754 holds every whole number
MAX_SHOWN = 80  # characters of a text in a message


def whole_number(value: object) -> object:
    """Return 4.0 as 4; other values, -0.0 and floats over MAX_EXACT_INTEGER are returned unchanged."""
    if not isinstance(value, float) or check_whole("", value) or abs(value) > MAX_EXACT_INTEGER:
        return value
    return int(value)


def shown(value: object) -> str:
    """Return a value as a message shows it: in one line, and no more than the start of a long text."""
    text = str(value)
    start = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN]
    line = start if start.isprintable() else repr(start)[1:-1]
    return line if start == text else f"{line}... ({len(text)} characters)"


def check_text(name: str, text: str) -> str | None:
    """Return what is wrong with a text that has half of a surrogate pair, which no encoding of Unicode has, or None."""
    for index, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            return f"{name}: character {index + 1} is half of a surrogate pair, not Unicode; remove or replace it"
    return None


def check_whole(name: str, value: float) -> str | None:
    """Return what is wrong with a number that is not whole, or is -0.0, or None."""
    if isinstance(value, int) or (value.is_integer() and str(value) != "-0.0"):
        return None
    nearest = dict.fromkeys((math.floor(value), math.ceil(value))) if math.isfinite(value) else ()
    advice = f"; try {' or '.join(map(str, nearest))}" if nearest else ""
    return f"{name}={value} is not a whole number{advice}"


def check_count(name: str, value: float, minimum: int, maximum: int | None = None) -> str | None:
    """Return what is wrong with a number that is not whole or is outside [minimum, maximum], or None."""
    return check_range(name, value, minimum, maximum) or check_whole(name, value)


def check_range(name: str, value: float, minimum: float, maximum: float | None = None) -> str | None:
    """Return what is wrong with a value outside [minimum, maximum], NaN included, or None."""
    if value >= minimum and (maximum is None or value <= maximum):
        return None
    allowed = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
    nearest = maximum if maximum is not None and value > maximum else minimum
    return f"{name}={value} is out of range ({allowed}); try {nearest}"


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> str | None:
    """Return what is wrong with a value that is not one of the choices, or None."""
    allowed = ", ".join(map(str, choices))
    return None if value in choices else f"{name}={shown(value)} is unknown; choose one of {allowed}"


def check_multiple(name: str, value: int, factor: int, minimum: int, maximum: int | None = None) -> str | None:
    """Return what is wrong with a side (in pixels) or count that is not a multiple of `factor` in range, or None."""
    lowest = -(-minimum // factor) * factor
    highest = None if maximum is None else maximum // factor * factor
    fault = check_count(name, value, lowest, highest)
    if fault is not None or value % factor == 0:
        return fault
    below = value // factor * factor
    nearest = [n for n in (below, below + factor) if n >= lowest and (highest is None or n <= highest)]
    return f"{name}={value} is not a multiple of {factor}; try {' or '.join(map(str, nearest))}"
