"""Which inputs of animate-diff are valid, and the message for each invalid one."""

from __future__ import annotations

import dataclasses

import pytest
from animate_diff.inputs import Inputs
from videokit.errors import InvalidInput

INPUTS = Inputs(prompt="a red circle moving right")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed=-1 is out of range (0 to 2147483647); omit it or give 0 for a random one"),
        (
            {"seed": 2147483648},
            "seed=2147483648 is out of range (0 to 2147483647); omit it or give 0 for a random one",
        ),
        ({"seed": -0.0}, "seed=-0.0 is not a whole number; try 0"),
        ({"prompt": "a\udc00"}, "prompt: character 2 is half of a surrogate pair, not Unicode; remove or replace it"),
        (
            {"negative_prompt": "\ud800"},
            "n_prompt: character 1 is half of a surrogate pair, not Unicode; remove or replace it",
        ),
        ({"num_inference_steps": 2.5}, "steps=2.5 is not a whole number; try 2 or 3"),
        ({"num_inference_steps": 0}, "steps=0 is out of range (1 to 100); try 1"),
        ({"num_inference_steps": 101}, "steps=101 is out of range (1 to 100); try 100"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5 is out of range (1 to 10); try 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan is out of range (1 to 10); try 1"),
        (
            {"motion_module": "mm_sd_v16"},
            "motion_module=mm_sd_v16 is unknown; choose one of mm_sd_v14, mm_sd_v15, mm_sd_v15_v2",
        ),
    ],
)
def test_an_invalid_input_is_reported_with_the_allowed_values(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        dataclasses.replace(INPUTS, **change).check()
    assert str(raised.value) == message


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as raised:
        Inputs(prompt="", checkpoint="nothing.ckpt", num_inference_steps=500, seed=-3).check()
    assert [fault.partition("=")[0] for fault in raised.value.faults] == ["path", "steps", "seed"]


@pytest.mark.parametrize("seed", [None, 0, 1, 2147483647])
def test_every_documented_seed_is_accepted(seed: int | None) -> None:
    inputs = dataclasses.replace(INPUTS, seed=seed)
    inputs.check()
    resolved = inputs.resolved_seed()
    # documented: 0 is random, the maximum is 2147483647
    assert 1 <= resolved <= 2147483647
    assert resolved == seed or not seed
