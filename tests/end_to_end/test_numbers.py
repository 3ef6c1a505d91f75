"""Numbers of JSON that Cog's server passes on unchanged: whole floats are integers, and -0.0 is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from served import Served, files

QUICK: dict[str, dict[str, Any]] = {
    "animate_diff": {"prompt": "a red circle", "steps": 2, "seed": 3},
    "sd_animation": {
        "prompt_start": "a red circle",
        "prompt_end": "a blue square",
        "width": 128,
        "height": 128,
        "num_inference_steps": 2,
        "num_animation_frames": 2,
        "num_interpolation_steps": 2,
        "gif_frames_per_second": 20,
        "seed": 3,
    },
    "zeroscope": {
        "prompt": "a red circle",
        "width": 256,
        "height": 256,
        "num_frames": 2,
        "num_inference_steps": 2,
        "fps": 8,
        "batch_size": 1,
        "seed": 3,
    },
}


def output_of(answer: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Return the files of a prediction, whose output is one file or a list."""
    output = answer.get("output")
    return files(answer | {"output": output if isinstance(output, list) else [output]})


@pytest.mark.parametrize("name", QUICK)
def test_whole_floats_give_the_file_of_the_integers(name: str, request: pytest.FixtureRequest) -> None:
    served: Served = request.getfixturevalue(name)
    inputs = QUICK[name]
    floats = {key: float(value) if isinstance(value, int) else value for key, value in inputs.items()}
    assert output_of(served.server.predict(floats)) == output_of(served.server.predict(inputs))


@pytest.mark.parametrize("name", QUICK)
def test_minus_zero_is_refused_with_the_number_to_write(name: str, request: pytest.FixtureRequest) -> None:
    served: Served = request.getfixturevalue(name)
    answer = served.server.predict(QUICK[name] | {"seed": -0.0})
    assert answer["status"] == "failed"
    assert answer["error"].endswith("InvalidInput: seed=-0.0 is not a whole number; try 0")
    assert answer["logs"] == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_is_not_json_is_refused_with_the_servers_reason_and_not_an_error_of_the_client(
    zeroscope: Served, value: object
) -> None:
    answer = zeroscope.server.predict(QUICK["zeroscope"] | {"prompt": value})
    assert answer.keys() == {"detail"}
    assert answer["detail"].startswith("Failed to parse the request body as JSON: ")


def test_a_local_file_is_refused_alike_whether_it_exists_or_not(zeroscope: Served, tmp_path: Path) -> None:
    existing = zeroscope.temporary / "tmpclip.mp4"
    existing.write_bytes(b"1234")
    try:
        for video in (str(existing), f"{zeroscope.temporary}/missing.mp4", "/etc/passwd", "ftp://host/x", "b" * 1000):
            answer = zeroscope.server.predict(QUICK["zeroscope"] | {"init_video": video})
            quoted = video if len(video) <= 80 else f"{video[:80]}... ({len(video)} characters)"
            message = f"init_video={quoted} is not an http(s):// URL or a data: URI; give one of these"
            assert answer["error"] == f"Prediction failed: Prediction failed: InvalidInput: {message}"
    finally:
        existing.unlink()
    assert json.dumps(answer).count("bytes") == 0
