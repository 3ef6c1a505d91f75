"""What a client of animate-diff gets from Cog's server, and the documented schema that it follows."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cog_local.server import CogServer
from pictures import decode_mp4
from programs import needs
from served import Served, file, wait_until_ready
from tree import ROOT

# The inputs that Replicate documents for lucataco/animate-diff, version
# beecf59c4aee8d81bf04f0381033dfa10dc16e845b4ae00d281e2fa377e48a9f (its API page, POST /predictions).
CONTRACT: dict[str, dict[str, Any]] = {
    "motion_module": {
        "description": "Select a Motion Model",
        "type": "string",
        "default": "mm_sd_v14",
        "enum": ["mm_sd_v14", "mm_sd_v15", "mm_sd_v15_v2"],
    },
    "path": {
        "description": "Select a Module",
        "type": "string",
        "default": "toonyou_beta3.safetensors",
        "enum": [
            "toonyou_beta3.safetensors",
            "lyriel_v16.safetensors",
            "rcnzCartoon3d_v10.safetensors",
            "majicmixRealistic_v5Preview.safetensors",
            "realisticVisionV40_v20Novae.safetensors",
        ],
    },
    "prompt": {
        "description": "Input prompt",
        "type": "string",
        "default": (
            "masterpiece, best quality, 1girl, solo, cherry blossoms, hanami, pink flower, white flower, "
            "spring season, wisteria, petals, flower, plum blossoms, outdoors, falling petals, white hair, black eyes"
        ),
    },
    "n_prompt": {"description": "Negative prompt", "type": "string", "default": ""},
    "steps": {
        "description": "Number of inference steps",
        "type": "integer",
        "default": 25,
        "minimum": 1,
        "maximum": 100,
    },
    "guidance_scale": {
        "description": "guidance scale",
        "type": "number",
        "default": 7.5,
        "minimum": 1,
        "maximum": 10,
    },
    "seed": {"description": "Seed (0 = random, maximum: 2147483647)", "type": "integer"},
}
INPUTS = {"prompt": "a red circle moving right", "seed": 3, "steps": 2}


def video(answer: dict[str, Any]) -> bytes:
    """Return the file of a prediction that has succeeded."""
    assert answer.get("status") == "succeeded", answer
    media_type, content = file(answer["output"])
    assert media_type == "video/mp4"
    return content


@pytest.fixture(scope="module")
def expected(animate_diff: Served) -> bytes:
    """Return the clip of the server's first prediction, with INPUTS."""
    return video(animate_diff.server.predict(INPUTS))


def test_the_published_schema_is_the_documented_one(animate_diff: Served) -> None:
    schemas = animate_diff.server.get("/openapi.json")["components"]["schemas"]
    assert animate_diff.inputs() == CONTRACT
    assert schemas["Input"]["properties"]["seed"]["nullable"] is True  # optional without a default
    assert "required" not in schemas["Input"]
    # a string is documented, and Cog adds its format
    assert (schemas["Output"]["type"], schemas["Output"]["format"]) == ("string", "uri")


def test_every_input_has_a_default(animate_diff: Served) -> None:
    answer = animate_diff.server.predict({"steps": 1})
    assert video(answer)
    assert 1 <= answer["metrics"]["seed"] <= 2147483647


@pytest.mark.parametrize(
    ("inputs", "field", "message"),
    [
        ({"steps": 101}, "steps", "101 is greater than the maximum of 100"),
        ({"steps": 0}, "steps", "0 is less than the minimum of 1"),
        ({"steps": 2.5}, "steps", 'is not of type "integer"'),
        ({"path": "other.safetensors"}, "path", "is not one of"),
        ({"prompt": 5}, "prompt", 'is not of type "string"'),
        ({"seed": None}, "seed", 'is not of type "integer"'),
    ],
)
def test_an_input_that_the_schema_forbids_is_rejected_by_cog(
    animate_diff: Served, inputs: dict[str, Any], field: str, message: str
) -> None:
    answer = animate_diff.server.predict(inputs)
    assert "status" not in answer
    assert [detail["loc"] for detail in answer["detail"]] == [["body", "input", field]]
    assert message in answer["detail"][0]["msg"]


@pytest.mark.parametrize("seed", [-1, 2147483648])
def test_a_seed_outside_the_documented_range_is_rejected_before_any_work(animate_diff: Served, seed: int) -> None:
    answer = animate_diff.server.predict({"seed": seed})
    assert answer["status"] == "failed"
    assert answer["error"].endswith(
        f"InvalidInput: seed={seed} is out of range (0 to 2147483647); omit it or give 0 for a random one"
    )
    assert answer["logs"] == ""


def test_an_unknown_input_is_ignored(animate_diff: Served, expected: bytes) -> None:
    # by Cog; script/predict rejects it
    assert video(animate_diff.server.predict(INPUTS | {"width": 512})) == expected


def test_seed_0_and_no_seed_are_random(animate_diff: Served) -> None:
    seeds = {
        animate_diff.server.predict({**inputs, "steps": 1})["metrics"]["seed"]
        for inputs in ({"seed": 0}, {"seed": 0}, {}, {})
    }
    assert len(seeds) == 4


def test_the_log_and_the_metrics_describe_the_prediction(animate_diff: Served) -> None:
    answer = animate_diff.server.predict(INPUTS | {"motion_module": "mm_sd_v15", "prompt": "red " * 100})
    lines = answer["logs"].splitlines()
    patterns = [
        r"seed: 3, toonyou_beta3\.safetensors with mm_sd_v15, steps 2, guidance 7\.5",
        r"load: mm_sd_v15 in [\d.]+ s, [\d.]+ GB in use on \w+",
        r"text: 0 and 100 tokens in 2 windows of 75 in .*",
        r"0%\| +\| 0/2 denoise .*",
        r"100%\|#+\| 2/2 denoise .*",
        r"denoise: 2 steps, 4 UNet evaluations of 16 frames 8x8 in .*",
        r"encode: 16 frames 64x64 at 8 fps -> [\d.]+ KB in [\d.]+ s",
        r"decode: .* in [\d.]+ s, .*",
    ]
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, lines)
    metrics = answer["metrics"]
    assert metrics["frames"] == len(decode_mp4(video(answer))) == 16
    assert (metrics["seed"], metrics["duration"]) == (3, 2.0)
    assert set(metrics["seconds"]) == {"load", "text", "denoise", "decode"}


def test_the_clip_is_an_mp4_that_browsers_play(expected: bytes, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(expected)
    probe = [needs("ffprobe"), "-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json", clip]
    facts = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)
    (stream,) = facts["streams"]
    properties = {
        "codec_name": "h264",
        "pix_fmt": "yuv420p",
        "width": 64,
        "height": 64,
        "nb_read_frames": "16",
        "avg_frame_rate": "8/1",
        "color_space": "bt709",
        "color_transfer": "bt709",
        "color_primaries": "bt709",
    }
    assert {key: stream[key] for key in properties} == properties
    assert float(facts["format"]["duration"]) == 2.0
    assert expected.index(b"moov") < expected.index(b"mdat")
    provenance = json.loads(facts["format"]["tags"]["comment"])
    assert provenance["inputs"] == {name: field.get("default") for name, field in CONTRACT.items()} | INPUTS
    assert provenance["seed"] == 3
    assert provenance["digitalSourceType"].endswith("/trainedAlgorithmicMedia")


def test_one_seed_gives_the_same_file_and_a_failure_or_cancel_leaves_none(
    animate_diff: Served, expected: bytes
) -> None:
    server = animate_diff.server
    other = {"path": "lyriel_v16.safetensors", "motion_module": "mm_sd_v15_v2", "steps": 1, "n_prompt": "red"}
    assert video(server.predict(other))
    assert video(server.predict(INPUTS)) == expected, "after another combination"
    assert server.predict({"seed": -5})["status"] == "failed"
    assert video(server.predict(INPUTS)) == expected, "after a failed prediction"
    assert animate_diff.cancel_at(other | {"steps": 100}, "denoise")["status"] == "canceled"
    assert animate_diff.files() == []
    assert video(server.predict(INPUTS)) == expected, "after a cancelled prediction"


def test_a_new_process_gives_the_same_file_and_a_failure_leaves_none(expected: bytes, tmp_path: Path) -> None:
    weights, temporary = tmp_path / "weights", tmp_path / "temporary"
    shutil.copytree(ROOT / "animate-diff" / "demo-weights", weights)
    (weights / "checkpoints" / "lyriel_v16.safetensors").unlink()
    temporary.mkdir()
    env = {"TMPDIR": str(temporary), "WEIGHTS_OFFLINE": "1"}
    with CogServer(ROOT / "animate-diff", weights=str(weights), env=env) as server:
        fresh = Served(server, temporary, [])
        assert video(server.predict(INPUTS)) == expected
        answer = server.predict(INPUTS | {"path": "lyriel_v16.safetensors"})
        assert (answer["status"], "WeightsMissing" in answer["error"]) == ("failed", True)
        assert fresh.files() == []
        assert video(server.predict(INPUTS)) == expected


def cancel_after(server: CogServer, inputs: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Start a prediction, cancel it after `seconds`, and return its answer."""
    answers: list[dict[str, Any]] = []
    name = f"cancelled-{time.monotonic_ns()}"
    thread = threading.Thread(target=lambda: answers.append(server.predict(inputs, name)))
    thread.start()
    time.sleep(seconds)
    server.cancel(name)
    thread.join()
    return answers[0]


def test_a_cancel_at_any_moment_leaves_the_server_ready_and_no_part_of_a_file(
    animate_diff: Served, expected: bytes
) -> None:
    server = animate_diff.server
    other = {"path": "rcnzCartoon3d_v10.safetensors", "motion_module": "mm_sd_v15_v2", "steps": 2, "seed": 8}
    other_clip = video(server.predict(other))
    seconds = float("inf")
    for _ in range(2):  # the shorter one, as a busy machine may stop a process for seconds
        start = time.monotonic()
        assert video(server.predict(other)) == other_clip
        seconds = min(seconds, time.monotonic() - start)
    moments = [random.Random(index).uniform(0, seconds) for index in range(20)]
    statuses = []
    for moment in moments:
        assert video(server.predict(INPUTS)) == expected
        answer = cancel_after(server, other, moment)
        statuses.append(answer["status"])
        wait_until_ready(server)
        if answer["status"] == "canceled":
            # A cancel before the start leaves the last clip, and a cancel after the end the new one.
            assert [path.read_bytes() for path in animate_diff.files()] in ([], [expected], [other_clip])
    assert video(server.predict(INPUTS)) == expected
    assert set(statuses) <= {"canceled", "succeeded"}
    assert "canceled" in statuses
