"""Faults of inputs are raised together."""

from __future__ import annotations

import pytest
from videokit.errors import InvalidInput, raise_faults


def test_all_faults_are_raised_together_one_per_line() -> None:
    with pytest.raises(InvalidInput) as raised:
        raise_faults(None, "a=1 is wrong", None, "b=2 is wrong")
    assert str(raised.value) == "a=1 is wrong\nb=2 is wrong"
    assert raised.value.faults == ("a=1 is wrong", "b=2 is wrong")


def test_nothing_is_raised_without_a_fault() -> None:
    raise_faults(None, None)


def test_a_message_has_at_most_20_faults_and_the_number_of_others() -> None:
    with pytest.raises(InvalidInput) as raised:
        raise_faults(*(f"prompt {number} is empty" for number in range(1, 1001)))
    assert len(raised.value.faults) == 21
    assert raised.value.faults[19:] == ("prompt 20 is empty", "980 more faults")
