"""Checks of sizes, counts and choices. Each returns a fault's text, or None; `errors.refuse` raises them together.

Nothing is rounded here: the text names the nearest allowed values, and the caller decides.
"""

from __future__ import annotations


def in_range(name: str, value: float, at_least: float, at_most: float | None = None) -> str | None:
    """Tell whether `value` lies in [at_least, at_most]; NaN does not."""
    if value >= at_least and (at_most is None or value <= at_most):
        return None
    allowed = f"at least {at_least}" if at_most is None else f"{at_least} to {at_most}"
    nearest = at_most if at_most is not None and value > at_most else at_least
    return f"{name}={value} is outside what is allowed ({allowed}); try {nearest}"


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> str | None:
    """Tell whether `value` is one of those allowed."""
    return None if value in allowed else f"{name}={value} is unknown; it is one of {', '.join(map(str, allowed))}"


def multiple_of(name: str, value: int, factor: int, at_least: int, at_most: int | None = None) -> str | None:
    """Tell whether a side (in pixels) or a count is a multiple of `factor` within its bounds."""
    lowest = -(-at_least // factor) * factor
    highest = None if at_most is None else at_most // factor * factor
    outside = in_range(name, value, lowest, highest)
    if outside is not None or value % factor == 0:
        return outside
    below = value // factor * factor
    nearest = [n for n in (below, below + factor) if n >= lowest and (highest is None or n <= highest)]
    return f"{name}={value} is not a multiple of {factor}; try {' or '.join(map(str, nearest))}"


def even(name: str, value: int) -> str | None:
    """Tell whether a side in pixels is even and positive, as H.264's 4:2:0 chroma needs."""
    return multiple_of(name, value, 2, at_least=2)


def frame_count(name: str, value: int, at_most: int, why: str) -> str | None:
    """Tell whether a number of frames is 1 to `at_most`; `why` says where the upper bound comes from."""
    fault = in_range(name, value, 1, at_most)
    return fault and f"{fault} ({why})"
