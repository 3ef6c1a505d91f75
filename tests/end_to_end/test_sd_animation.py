"""What a client of sd-animation gets from Cog's server, and the documented schema that it follows."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cog_local.server import CogServer
from PIL import Image
from programs import needs
from safetensors.torch import load_file, save_file
from served import Served, file, files, wait_until_ready
from tree import ROOT
from videokit.weights.stable_diffusion import SAFETY_CHECKER

# The inputs that Replicate documents for andreasjansson/stable-diffusion-animation, version
# ca1f5e306e5721e19c473e0d094e6603f0456fe759c10715fcd6c1b79242d4a5 (its API page, POST /predictions).
CONTRACT: dict[str, dict[str, Any]] = {
    "prompt_start": {"description": "Prompt to start the animation with", "type": "string"},
    "prompt_end": {
        "description": (
            "Prompt to end the animation with. You can include multiple prompts by separating the prompts with | "
            "(the 'pipe' character)"
        ),
        "type": "string",
    },
    "width": {
        "description": "Width of output image",
        "type": "integer",
        "default": 512,
        "enum": [128, 256, 512, 768, 1024],
    },
    "height": {
        "description": "Height of output image",
        "type": "integer",
        "default": 512,
        "enum": [128, 256, 512, 768],
    },
    "num_inference_steps": {
        "description": "Number of denoising steps",
        "type": "integer",
        "default": 50,
        "minimum": 1,
        "maximum": 500,
    },
    "prompt_strength": {
        "description": (
            "Lower prompt strength generates more coherent gifs, higher respects prompts more but can be jumpy"
        ),
        "type": "number",
        "default": 0.8,
    },
    "num_animation_frames": {
        "description": "Number of frames to animate",
        "type": "integer",
        "default": 10,
        "minimum": 2,
        "maximum": 50,
    },
    "num_interpolation_steps": {
        "description": "Number of steps to interpolate between animation frames",
        "type": "integer",
        "default": 5,
        "minimum": 1,
        "maximum": 50,
    },
    "guidance_scale": {
        "description": "Scale for classifier-free guidance",
        "type": "number",
        "default": 7.5,
        "minimum": 1,
        "maximum": 20,
    },
    "gif_frames_per_second": {
        "description": "Frames/second in output GIF",
        "type": "integer",
        "default": 20,
        "minimum": 1,
        "maximum": 50,
    },
    "gif_ping_pong": {
        "description": "Whether to reverse the animation and go back to the beginning before looping",
        "type": "boolean",
        "default": False,
    },
    "film_interpolation": {
        "description": "Whether to use FILM for between-frame interpolation (film-net.github.io)",
        "type": "boolean",
        "default": True,
    },
    "intermediate_output": {
        "description": "Whether to display intermediate outputs during generation",
        "type": "boolean",
        "default": False,
    },
    "output_format": {"description": "Output file format", "type": "string", "default": "gif", "enum": ["gif", "mp4"]},
    "seed": {"description": "Random seed. Leave blank to randomize the seed", "type": "integer"},
}
PROMPTS = {"prompt_start": "a red circle", "prompt_end": "a blue square"}
INPUTS = {**PROMPTS, "width": 128, "height": 128, "num_animation_frames": 3, "num_inference_steps": 2, "seed": 3}
INPUTS |= {"num_interpolation_steps": 2}


@pytest.fixture(scope="module")
def expected(sd_animation: Served) -> bytes:
    """Return the animation of the server's first prediction, with INPUTS."""
    ((media_type, content),) = files(sd_animation.server.predict(INPUTS))
    assert media_type == "image/gif"
    return content


def test_the_published_schema_is_the_documented_one(sd_animation: Served) -> None:
    api = sd_animation.server.get("/openapi.json")
    schemas = api["components"]["schemas"]
    assert sd_animation.inputs() == CONTRACT
    assert sorted(schemas["Input"]["required"]) == ["prompt_end", "prompt_start"]
    assert schemas["Input"]["properties"]["seed"]["nullable"] is True
    output = schemas["Output"]
    assert (output["type"], output["items"]["format"], output["x-cog-array-type"]) == ("array", "uri", "iterator")
    assert api["paths"]["/predictions"]["post"]["x-cog-streaming"] is True


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompt_end": "a || b"}, "prompt_end: prompt 2 of 3 between the | is empty; write one, or remove its |"),
        ({"prompt_strength": 1.5}, "prompt_strength=1.5 is out of range (0 to 1); try 1"),
        ({"seed": -1}, "seed=-1 is out of range (0 to 2147483647); omit it for a random one"),
    ],
)
def test_an_input_that_only_the_model_forbids_is_rejected_before_any_work(
    sd_animation: Served, inputs: dict[str, Any], message: str
) -> None:
    answer = sd_animation.server.predict(INPUTS | inputs)
    assert answer["status"] == "failed"
    assert answer["error"].endswith(f"InvalidInput: {message}")
    assert answer["logs"] == ""


@pytest.mark.parametrize(
    ("output_format", "film", "ping_pong"), [("gif", True, True), ("mp4", False, False), ("mp4", True, True)]
)
def test_the_number_of_frames_and_the_duration_are_exact(
    sd_animation: Served, tmp_path: Path, output_format: str, film: bool, ping_pong: bool
) -> None:
    inputs = {
        "output_format": output_format,
        "film_interpolation": film,
        "gif_ping_pong": ping_pong,
        "gif_frames_per_second": 12,
    }
    answer = sd_animation.server.predict(INPUTS | inputs)
    ((media_type, content),) = files(answer)
    frames = 8 if ping_pong else 5  # (3 - 1) * 2 + 1, and 5 - 2 in reverse
    assert answer["metrics"]["frames"] == frames
    assert media_type == {"gif": "image/gif", "mp4": "video/mp4"}[output_format]
    clip = tmp_path / f"clip.{output_format}"
    clip.write_bytes(content)
    if output_format == "gif":
        with Image.open(clip) as gif:
            delays = []
            for index in range(gif.n_frames):
                gif.seek(index)
                delays.append(gif.info["duration"])
        assert (len(delays), sum(delays)) == (8, 670)  # 8 / 12 s in units of 10 ms
        return
    probe = [needs("ffprobe"), "-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json", clip]
    facts = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)
    (stream,) = facts["streams"]
    assert (stream["nb_read_frames"], stream["avg_frame_rate"]) == (str(frames), "12/1")
    assert float(facts["format"]["duration"]) == pytest.approx(frames / 12, abs=1e-3)
    provenance = json.loads(facts["format"]["tags"]["comment"])
    assert provenance["inputs"] == {name: field.get("default") for name, field in CONTRACT.items()} | INPUTS | inputs
    assert provenance["seed"] == 3


def test_the_log_counts_frames_steps_and_evaluations(sd_animation: Served) -> None:
    logs = sd_animation.server.predict(INPUTS | {"num_inference_steps": 5, "prompt_strength": 0.6})["logs"]
    assert "seed: 3, 2 prompts, 5 frames 128x128\n" in logs
    assert "shared: 2 of 5 steps in " in logs
    assert "denoise: 3 frames, 3 evaluations each, 3 in a batch in " in logs


def stream(server: CogServer, inputs: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Request Server-Sent Events, and yield the name and the data of each as it arrives."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    connection.request("POST", "/predictions", json.dumps({"input": inputs}), headers)
    answer = connection.getresponse()
    assert answer.headers["content-type"] == "text/event-stream"
    event = ""
    for line in answer:
        name, _, value = line.decode().strip().partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)
            if event == "completed":
                break
    connection.close()


def test_frames_arrive_one_by_one_while_the_prediction_runs(sd_animation: Served) -> None:
    inputs = INPUTS | {"prompt_end": "a cat|the sea", "intermediate_output": True, "num_interpolation_steps": 20}
    statuses: list[str] = []  # of the server, when a frame has arrived
    while "BUSY" not in statuses:  # a busy machine may read the frames after the end of the prediction
        assert len(statuses) < 60
        wait_until_ready(sd_animation.server)
        outputs: list[tuple[str, bytes]] = []
        for event, data in stream(sd_animation.server, inputs):
            if event == "output":
                if len(outputs) < 6:
                    statuses.append(sd_animation.server.get("/health-check")["status"])
                assert data["index"] == len(outputs)
                outputs.append(file(data["chunk"]))
            elif event == "completed":
                assert data["status"] == "succeeded"
    assert [media_type for media_type, _ in outputs] == ["image/png"] * 6 + ["image/gif"]
    for _, content in outputs[:6]:
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (128, 128)
            assert json.loads(image.text["Comment"])["seed"] == 3  # type: ignore[attr-defined]
            assert "trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]  # type: ignore[attr-defined]
    assert len({content for _, content in outputs}) == 7


def test_the_files_are_the_same_streamed_and_in_one_answer(sd_animation: Served, expected: bytes) -> None:
    wait_until_ready(sd_animation.server)
    inputs = INPUTS | {"intermediate_output": True}
    streamed = [file(data["chunk"]) for event, data in stream(sd_animation.server, inputs) if event == "output"]
    wait_until_ready(sd_animation.server)
    assert files(sd_animation.server.predict(inputs)) == streamed
    assert len(streamed) == 4


CANCELLED_INPUTS = INPUTS | {
    "num_animation_frames": 4,
    "intermediate_output": True,
    "gif_ping_pong": True,
    "prompt_strength": 0.5,
}


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        ("shared steps", {"num_inference_steps": 100}),
        ("denoise, batch 1 of 1", {"num_inference_steps": 100}),
        ("denoise: ", {"width": 512, "height": 256}),  # while frames are decoded
        ("decode: ", {"num_interpolation_steps": 50}),  # while FILM and the encoder run
        ("decode: ", {"num_interpolation_steps": 50, "film_interpolation": False, "output_format": "mp4"}),
    ],
)
def test_a_cancel_in_any_stage_leaves_the_server_ready_and_no_file(
    sd_animation: Served, expected: bytes, text: str, inputs: dict[str, Any]
) -> None:
    answer = sd_animation.cancel_at(CANCELLED_INPUTS | inputs, text)
    assert answer["status"] == "canceled"
    assert sd_animation.files() == []
    assert files(sd_animation.server.predict(INPUTS)) == [("image/gif", expected)]


def test_frames_that_the_safety_checker_flags_give_no_file(tmp_path: Path) -> None:
    weights, temporary = tmp_path / "weights", tmp_path / "temporary"
    shutil.copytree(ROOT / "sd-animation" / "demo-weights", weights)
    temporary.mkdir()
    checker = weights / SAFETY_CHECKER
    tensors = load_file(checker)
    tensors["concept_embeds_weights"] = torch.full_like(tensors["concept_embeds_weights"], -2)  # flags every frame
    save_file(tensors, checker)
    inputs = INPUTS | {"intermediate_output": True}
    message = "InvalidInput: the safety checker flagged frames 1, 2, 3 of 3; try another prompt or another seed"
    env = {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary), "WEIGHTS_OFFLINE": "1"}
    with CogServer(ROOT / "sd-animation", weights=str(weights), env=env) as server:
        answer = server.predict(inputs)
        assert answer["status"] == "failed"
        assert answer["error"].endswith(message)
        assert not answer.get("output")
        assert Served(server, temporary, []).files() == []
        wait_until_ready(server)
        events = list(stream(server, inputs))
    assert [event for event, _ in events if event == "output"] == []
    assert not events[-1][1].get("output")
    assert events[-1][1]["error"].endswith(message)
