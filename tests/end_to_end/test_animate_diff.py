"""animate-diff through Cog's own server: the documented contract, and what a caller may rely on."""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cog_local.server import CogServer
from programs import needs
from served import Served, wait_until_ready
from tree import ROOT

# The inputs as Replicate documents lucataco/animate-diff, version
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
QUICK = {"prompt": "a red circle moving right", "seed": 3, "steps": 2}


def video(answer: dict[str, Any]) -> bytes:
    """The file of a prediction that has succeeded."""
    assert answer.get("status") == "succeeded", answer
    kind, _, content = answer["output"].partition(",")
    assert kind == "data:video/mp4;base64"
    return base64.b64decode(content)


@pytest.fixture(scope="module")
def expected(animate_diff: Served) -> bytes:
    """What QUICK gives, the first time that this server is asked."""
    return video(animate_diff.server.predict(QUICK))


def test_the_schema_is_the_documented_contract(animate_diff: Served) -> None:
    schemas = animate_diff.server.get("/openapi.json")["components"]["schemas"]
    assert animate_diff.inputs() == CONTRACT
    assert schemas["Input"]["properties"]["seed"]["nullable"] is True  # optional, as documented: no default
    assert "required" not in schemas["Input"]
    # documented_200 is a string; Cog says of which kind: a URI
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
        ({"steps": "many"}, "steps", 'is not of type "integer"'),
        ({"steps": 2.5}, "steps", 'is not of type "integer"'),
        ({"guidance_scale": 10.5}, "guidance_scale", "10.5 is greater than the maximum of 10"),
        ({"guidance_scale": 0.9}, "guidance_scale", "0.9 is less than the minimum of 1"),
        ({"path": "other.safetensors"}, "path", "is not one of"),
        ({"motion_module": "mm_sd_v16"}, "motion_module", "is not one of"),
        ({"prompt": 5}, "prompt", 'is not of type "string"'),
        ({"seed": None}, "seed", 'is not of type "integer"'),
    ],
)
def test_what_the_contract_forbids_is_refused_by_the_server(
    animate_diff: Served, inputs: dict[str, Any], field: str, message: str
) -> None:
    answer = animate_diff.server.predict(inputs)
    assert "status" not in answer
    assert [detail["loc"] for detail in answer["detail"]] == [["body", "input", field]]
    assert message in answer["detail"][0]["msg"]


@pytest.mark.parametrize("seed", [-1, 2147483648])
def test_a_seed_outside_the_documented_range_is_refused_before_any_work(animate_diff: Served, seed: int) -> None:
    answer = animate_diff.server.predict({"seed": seed})
    assert answer["status"] == "failed"
    assert answer["error"].endswith(
        f"InvalidInput: seed={seed} is out of range (0 to 2147483647); "
        "omit it or give 0 for a random one"
    )
    assert answer["logs"] == ""


def test_an_unknown_input_is_dropped(animate_diff: Served, expected: bytes) -> None:
    # Cog's rule, not ours; script/predict refuses it before it asks
    assert video(animate_diff.server.predict(QUICK | {"width": 512})) == expected


def test_seed_0_and_no_seed_are_random(animate_diff: Served) -> None:
    seeds = {
        animate_diff.server.predict({**inputs, "steps": 1})["metrics"]["seed"]
        for inputs in ({"seed": 0}, {"seed": 0}, {}, {})
    }
    assert len(seeds) == 4


def test_log_and_metrics_say_what_was_done(animate_diff: Served) -> None:
    answer = animate_diff.server.predict(QUICK | {"motion_module": "mm_sd_v15", "prompt": "red " * 100})
    lines = answer["logs"].splitlines()
    patterns = [
        r"seed: 3, toonyou_beta3\.safetensors with mm_sd_v15, 2 steps, guidance 7\.5",
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
    assert (metrics["seed"], metrics["frames"], metrics["duration"]) == (3, 16, 2.0)
    assert set(metrics["seconds"]) == {"load", "text", "denoise", "decode"}


def test_the_clip_is_what_browsers_and_replicate_play(expected: bytes, tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(expected)
    probe = [
        needs("ffprobe"),
        "-v",
        "error",
        "-count_frames",
        "-show_streams",
        "-show_format",
        "-of",
        "json",
        str(file),
    ]
    found = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)
    (stream,) = found["streams"]
    wanted = {
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
    assert {key: stream[key] for key in wanted} == wanted
    assert float(found["format"]["duration"]) == 2.0
    assert expected.index(b"moov") < expected.index(b"mdat")
    provenance = json.loads(found["format"]["tags"]["comment"])
    assert provenance["inputs"] == {name: field.get("default") for name, field in CONTRACT.items()} | QUICK
    assert provenance["seed"] == 3
    assert provenance["digitalSourceType"].endswith("/trainedAlgorithmicMedia")


def test_one_seed_gives_the_same_file_whatever_ran_before(animate_diff: Served, expected: bytes) -> None:
    server = animate_diff.server
    other = {"path": "lyriel_v16.safetensors", "motion_module": "mm_sd_v15_v2", "steps": 1, "n_prompt": "red"}
    assert video(server.predict(other))
    assert video(server.predict(QUICK)) == expected, "after another combination"
    assert server.predict({"seed": -5})["status"] == "failed"
    assert video(server.predict(QUICK)) == expected, "after a failed prediction"
    cancel_after(server, other | {"steps": 100}, seconds=1.0)
    assert video(server.predict(QUICK)) == expected, "after a cancelled prediction"


def test_a_new_process_gives_the_same_file(expected: bytes) -> None:
    with CogServer(ROOT / "animate-diff") as server:
        assert video(server.predict(QUICK)) == expected


def cancel_after(server: CogServer, inputs: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Start a prediction, cancel it after a while, and return how it ended."""
    answers: list[dict[str, Any]] = []
    name = f"cancelled-{time.monotonic_ns()}"
    thread = threading.Thread(target=lambda: answers.append(server.predict(inputs, name)))
    thread.start()
    time.sleep(seconds)
    server.cancel(name)
    thread.join()
    return answers[0]


def test_a_cancel_at_any_moment_leaves_the_server_ready_and_clean(animate_diff: Served, expected: bytes) -> None:
    server = animate_diff.server
    other = {"path": "rcnzCartoon3d_v10.safetensors", "motion_module": "mm_sd_v15_v2", "steps": 2, "seed": 8}
    began = time.monotonic()
    whole = video(server.predict(other))
    seconds = time.monotonic() - began
    moments = [random.Random(index).uniform(0, seconds) for index in range(20)]
    ended = []
    for moment in moments:
        assert video(server.predict(QUICK)) == expected
        answer = cancel_after(server, other, moment)
        ended.append(answer["status"])
        wait_until_ready(server)
        if answer["status"] == "canceled":
            # Until the next one begins there may lie what was delivered before, or a clip that was whole when canceled;
            # never a part of one
            assert [file.read_bytes() for file in animate_diff.files()] in ([], [expected], [whole])
    assert video(server.predict(QUICK)) == expected
    assert set(ended) <= {"canceled", "succeeded"}
    assert ended.count("canceled") >= 10
