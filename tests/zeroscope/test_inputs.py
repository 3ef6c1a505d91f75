"""Which inputs of zeroscope are valid, and the message for each invalid one."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
from videokit.errors import InvalidInput
from zeroscope.inputs import Inputs

INPUTS = Inputs("An astronaut riding a horse")


def max_frames(_: Inputs) -> int:
    """Return the number of frames that the device's memory allows, whatever their size."""
    return 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 500}, "width=500 is not a multiple of 8; try 496 or 504"),
        ({"height": 257}, "height=257 is not a multiple of 8; try 256 or 264"),
        ({"height": 248}, "height=248 is out of range (at least 256); try 256"),
        ({"num_frames": 0}, "num_frames=0 is out of range (1 to 100); try 1 (the memory allows 100 frames of "),
        ({"num_frames": -1}, "num_frames=-1 is out of range (1 to 100); try 1 (the memory allows 100 frames of "),
        ({"num_frames": 101}, "num_frames=101 is out of range (1 to 100); try 100 (the memory allows 100 frames of "),
        ({"fps": 0}, "fps=0 is out of range (1 to 120); try 1"),
        ({"fps": -8}, "fps=-8 is out of range (1 to 120); try 1"),
        ({"fps": 1000}, "fps=1000 is out of range (1 to 120); try 120"),
        # without a video too
        ({"init_weight": -0.1}, "init_weight=-0.1 is out of range (0 to 1); try 0"),
        ({"init_weight": 1.5}, "init_weight=1.5 is out of range (0 to 1); try 1"),
        ({"init_weight": float("nan")}, "init_weight=nan is out of range (0 to 1); try 0"),
        ({"num_inference_steps": 501}, "num_inference_steps=501 is out of range (1 to 500); try 500"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5 is out of range (1 to 100); try 1"),
        ({"model": "xxl"}, "model=xxl is unknown; choose one of xl, 576w, potat1, animov-512x"),
        ({"batch_size": 0}, "batch_size=0 is out of range (1 to 100); try 1"),
        ({"width": 512.5}, "width=512.5 is not a whole number; try 512 or 513"),
        ({"num_frames": 4.5}, "num_frames=4.5 is not a whole number; try 4 or 5 (the memory allows 100 frames of "),
        ({"seed": -0.0}, "seed=-0.0 is not a whole number; try 0"),
        ({"prompt": "\ud800"}, "prompt: character 1 is half of a surrogate pair, not Unicode; remove or replace it"),
        (
            {"negative_prompt": "a\ud800"},
            "negative_prompt: character 2 is half of a surrogate pair, not Unicode; remove or replace it",
        ),
        ({"seed": -1}, "seed=-1 is out of range (0 to 2147483647); omit it for a random one"),
        (
            {"seed": 2147483647, "batch_size": 2},
            "seed=2147483647 with batch_size=2 ends with a seed over 2147483647; try seed=2147483646",
        ),
    ],
)
def test_an_invalid_input_is_reported_with_the_allowed_values(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        dataclasses.replace(INPUTS, **change).check(max_frames)
    (fault,) = raised.value.faults
    assert fault.startswith(message)


@pytest.mark.parametrize(
    ("video", "quoted"),
    [
        ("ftp://host/x", "ftp://host/x"),
        ("/etc/passwd", "/etc/passwd"),
        ("a" * 1000, "a" * 80 + "... (1000 characters)"),
        ("a\x00\nb", r"a\x00\nb"),
        ("", ""),
        (__file__, __file__),  # a file that exists
        (Path(__file__), __file__),
        (f"{tempfile.gettempdir()}/a.mp4", f"{tempfile.gettempdir()}/a.mp4"),  # Cog passes its own files as paths
        (Path(tempfile.gettempdir()) / "directory" / "a.mp4", f"{tempfile.gettempdir()}/directory/a.mp4"),
    ],
    ids=lambda value: str(value)[:20].replace("/", "-").replace("\x00", ""),
)
def test_only_a_file_that_cog_has_fetched_is_a_video(video: str | Path, quoted: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        dataclasses.replace(INPUTS, init_video=video).check(max_frames)
    text = quoted if len(quoted) <= 80 or "..." in quoted else f"{quoted[:80]}... ({len(quoted)} characters)"
    assert raised.value.faults == (f"init_video={text} is not an http(s):// URL or a data: URI; give one of these",)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as raised:
        Inputs("", width=5, height=300, num_frames=0, fps=0, init_weight=2, batch_size=0, model="x").check(max_frames)
    assert len(raised.value.faults) == 7
    assert "num_frames=0 is out of range (at least 1); try 1" in raised.value.faults  # an invalid size has no maximum


def test_a_size_of_which_no_frame_fits_into_memory_is_rejected() -> None:
    with pytest.raises(InvalidInput, match=r"^width=576 and height=320: one frame does not fit into memory; "):
        INPUTS.check(lambda _: 0)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"width": 256, "height": 2048, "num_frames": 1, "fps": 1, "init_weight": 0, "guidance_scale": 1},
        {"num_frames": 100, "fps": 120, "init_weight": 1, "guidance_scale": 100, "num_inference_steps": 500},
        {"seed": 2147483647},
        {"seed": 0, "batch_size": 9, "init_video": Path(tempfile.gettempdir()) / "tmpabcdefghclip.mp4"},
    ],
)
def test_the_bounds_themselves_are_valid(change: dict[str, object]) -> None:
    dataclasses.replace(INPUTS, **change).check(max_frames)


def test_a_random_seed_leaves_room_for_the_seeds_of_the_batch() -> None:
    batch = dataclasses.replace(INPUTS, batch_size=2147483640)
    assert {batch.resolved_seed() + batch.batch_size - 1 <= 2147483647 for _ in range(20)} == {True}
    assert len({INPUTS.resolved_seed() for _ in range(5)}) > 1
    assert dataclasses.replace(INPUTS, seed=0).resolved_seed() == 0
