"""Which inputs of new-model are valid, and the message for each invalid one."""

from __future__ import annotations

import pytest
from new_model.inputs import Inputs
from videokit.errors import InvalidInput


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as raised:
        Inputs(num_frames=0, seed=-1).check()
    assert raised.value.faults == (
        "num_frames=0 is out of range (1 to 240); try 1",
        "seed=-1 is out of range (0 to 2147483647); omit it for a random one",
    )
