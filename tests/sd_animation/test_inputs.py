"""Which inputs of sd-animation are valid, the message for each invalid one, and the counts that follow."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from sd_animation.inputs import Inputs
from videokit.errors import InvalidInput

INPUTS = Inputs("a red circle", "a blue square")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_end": ""}, "prompt_end is empty; describe the end of the animation"),
        ({"prompt_end": "  "}, "prompt_end is empty; describe the end of the animation"),
        ({"prompt_end": "a | | b"}, "prompt_end: prompt 2 of 3 between the | is empty; write one, or remove its |"),
        ({"prompt_end": "a|"}, "prompt_end: prompt 2 of 2 between the | is empty; write one, or remove its |"),
        ({"width": 640}, "width=640 is unknown; choose one of 128, 256, 512, 768, 1024"),
        ({"height": 1024}, "height=1024 is unknown; choose one of 128, 256, 512, 768"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 is out of range (1 to 500); try 1"),
        ({"num_inference_steps": 501}, "num_inference_steps=501 is out of range (1 to 500); try 500"),
        ({"prompt_strength": -0.1}, "prompt_strength=-0.1 is out of range (0 to 1); try 0"),
        ({"prompt_strength": 1.2}, "prompt_strength=1.2 is out of range (0 to 1); try 1"),
        ({"prompt_strength": float("nan")}, "prompt_strength=nan is out of range (0 to 1); try 0"),
        ({"num_animation_frames": 1}, "num_animation_frames=1 is out of range (2 to 50); try 2"),
        ({"num_animation_frames": 51}, "num_animation_frames=51 is out of range (2 to 50); try 50"),
        ({"num_interpolation_steps": 0}, "num_interpolation_steps=0 is out of range (1 to 50); try 1"),
        ({"guidance_scale": 20.5}, "guidance_scale=20.5 is out of range (1 to 20); try 20"),
        ({"fps": 51}, "gif_frames_per_second=51 is out of range (1 to 50); try 50"),
        ({"output_format": "webm"}, "output_format=webm is unknown; choose one of gif, mp4"),
        ({"seed": -0.0}, "seed=-0.0 is not a whole number; try 0"),
        ({"num_animation_frames": 2.5}, "num_animation_frames=2.5 is not a whole number; try 2 or 3"),
        ({"fps": 20.5}, "gif_frames_per_second=20.5 is not a whole number; try 20 or 21"),
        (
            {"prompt_start": "\ud800"},
            "prompt_start: character 1 is half of a surrogate pair, not Unicode; remove or replace it",
        ),
        (
            {"prompt_end": "a | \udfff"},
            "prompt_end: character 5 is half of a surrogate pair, not Unicode; remove or replace it",
        ),
        ({"seed": -1}, "seed=-1 is out of range (0 to 2147483647); omit it for a random one"),
        ({"seed": 2147483648}, "seed=2147483648 is out of range (0 to 2147483647); omit it for a random one"),
    ],
)
def test_an_invalid_input_is_reported_with_the_allowed_values(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        dataclasses.replace(INPUTS, **change).check()
    assert str(raised.value) == message


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as raised:
        Inputs("", "|", width=5, prompt_strength=2, seed=-1).check()
    assert len(raised.value.faults) == 5  # both prompts of "|" are empty


def test_prompt_end_is_split_at_pipes_and_stripped_and_prompt_start_is_not() -> None:
    inputs = Inputs("a | b", " c|d \n| e f ")
    inputs.check()
    assert inputs.prompts == ["a | b", "c", "d", "e f"]


@pytest.mark.parametrize("seed", [None, 0, 1, 2147483647])
def test_every_seed_is_accepted_and_only_none_is_random(seed: int | None) -> None:
    inputs = dataclasses.replace(INPUTS, seed=seed)
    inputs.check()
    resolved = inputs.resolved_seed()
    assert 0 <= resolved <= 2147483647
    assert seed is None or resolved == seed


def test_the_number_of_frames_follows_from_the_counts_and_ping_pong() -> None:
    for ends, frames, n in itertools.product((1, 2, 3), (2, 10, 50), (1, 2, 5, 50)):
        inputs = Inputs("a", "|".join("bcd"[:ends]), num_animation_frames=frames, num_interpolation_steps=n)
        forward = (ends * frames - 1) * n + 1
        assert inputs.num_frames == forward
        assert dataclasses.replace(inputs, ping_pong=True).num_frames == 2 * forward - 2
    largest = Inputs("a", "b", num_animation_frames=50, num_interpolation_steps=50)
    assert (largest.num_frames, dataclasses.replace(largest, ping_pong=True).num_frames) == (2451, 4900)


@pytest.mark.parametrize(
    ("steps", "strength", "shared"),
    # 1 - 0.8 is 0.19999999999999996; the original rounded down and had one step too few
    [(50, 0.8, 10), (25, 0.8, 5), (10, 0.8, 2), (30, 0.7, 9), (50, 1.0, 0), (50, 0.0, 50), (1, 0.8, 0), (1, 0.0, 1)],
)
def test_the_number_of_shared_steps_is_rounded_to_nearest(steps: int, strength: float, shared: int) -> None:
    assert Inputs("a", "b", num_inference_steps=steps, prompt_strength=strength).num_shared_steps == shared
