"""Checks of numbers and choices. Each returns what is wrong, or None; `errors.raise_faults` raises them together.

Nothing is rounded here. The text names the nearest allowed values.
"""

from __future__ import annotations


def check_range(name: str, value: float, minimum: float, maximum: float | None = None) -> str | None:
    """Return what is wrong with a value outside [minimum, maximum], NaN included, or None."""
    if value >= minimum and (maximum is None or value <= maximum):
        return None
    allowed = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
    nearest = maximum if maximum is not None and value > maximum else minimum
    return f"{name}={value} is out of range ({allowed}); try {nearest}"


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> str | None:
    """Return what is wrong with a value that is not one of the choices, or None."""
    return None if value in choices else f"{name}={value} is unknown; choose one of {', '.join(map(str, choices))}"


def check_multiple(name: str, value: int, factor: int, minimum: int, maximum: int | None = None) -> str | None:
    """Return what is wrong with a side (in pixels) or count that is not a multiple of `factor` in range, or None."""
    lowest = -(-minimum // factor) * factor
    highest = None if maximum is None else maximum // factor * factor
    fault = check_range(name, value, lowest, highest)
    if fault is not None or value % factor == 0:
        return fault
    below = value // factor * factor
    nearest = [n for n in (below, below + factor) if n >= lowest and (highest is None or n <= highest)]
    return f"{name}={value} is not a multiple of {factor}; try {' or '.join(map(str, nearest))}"
