"""What a client of zeroscope gets from Cog's server for any text and any video, and the documented schema."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hostile_videos
import numpy as np
import pytest
from cog_local.server import CogServer
from hostile_videos import draw_number, write_clip
from pictures import decode_mp4
from programs import needs
from served import Served, files
from tree import ROOT
from weight_server import WeightServer, serve_files

# The inputs that Replicate documents for anotherjesse/zeroscope-v2-xl, version
# 9f747673945c62801b13b84701c783929c0ee784e4748ec062204894dda1a351 (its API page, POST /predictions).
CONTRACT: dict[str, dict[str, Any]] = {
    "prompt": {"description": "Input prompt", "type": "string", "default": "An astronaut riding a horse"},
    "negative_prompt": {"description": "Negative prompt", "type": "string"},
    "init_video": {"description": "URL of the initial video (optional)", "type": "string", "format": "uri"},
    "init_weight": {"description": "Strength of init_video", "type": "number", "default": 0.5},
    "num_frames": {"description": "Number of frames for the output video", "type": "integer", "default": 24},
    "num_inference_steps": {
        "description": "Number of denoising steps",
        "type": "integer",
        "default": 50,
        "minimum": 1,
        "maximum": 500,
    },
    "width": {"description": "Width of the output video", "type": "integer", "default": 576, "minimum": 256},
    "height": {"description": "Height of the output video", "type": "integer", "default": 320, "minimum": 256},
    "guidance_scale": {
        "description": "Guidance scale",
        "type": "number",
        "default": 7.5,
        "minimum": 1,
        "maximum": 100,
    },
    "fps": {"description": "fps for the output video", "type": "integer", "default": 8},
    "model": {
        "description": "Model to use",
        "type": "string",
        "default": "xl",
        "enum": ["xl", "576w", "potat1", "animov-512x"],
    },
    "batch_size": {"description": "Batch size", "type": "integer", "default": 1, "minimum": 1},
    "remove_watermark": {"description": "Remove watermark", "type": "boolean", "default": False},
    "seed": {"description": "Random seed. Leave blank to randomize the seed", "type": "integer"},
}
INPUTS = {"prompt": "a red circle", "width": 256, "height": 256, "num_frames": 2, "num_inference_steps": 1, "seed": 3}


def videos(answer: dict[str, Any]) -> list[bytes]:
    """Return the MP4 files of a prediction that has succeeded."""
    outputs = files(answer)
    assert {media_type for media_type, _ in outputs} == {"video/mp4"}
    return [content for _, content in outputs]


def data_uri(content: bytes, media_type: str = "video/mp4") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="module")
def expected(zeroscope: Served) -> bytes:
    """Return the video of the server's first prediction, with INPUTS."""
    (content,) = videos(zeroscope.server.predict(INPUTS))
    return content


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a video whose size, length and frame rate differ from those requested."""
    frames = (draw_number(index, 96, 64) for index in range(12))
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames).read_bytes()


@pytest.fixture
def site() -> Iterator[WeightServer]:
    with serve_files({}) as server:
        yield server


def test_the_published_schema_is_the_documented_one(zeroscope: Served) -> None:
    assert zeroscope.inputs() == CONTRACT
    schemas = zeroscope.server.get("/openapi.json")["components"]["schemas"]
    assert "required" not in schemas["Input"]
    optional = {name for name, field in schemas["Input"]["properties"].items() if field.get("nullable")}
    assert optional == {"negative_prompt", "init_video", "seed"}
    output = schemas["Output"]
    assert (output["type"], output["items"]) == ("array", {"type": "string", "format": "uri"})
    assert "x-cog-array-type" not in output  # not an iterator


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"width": 500}, "width=500 is not a multiple of 8; try 496 or 504"),
        ({"num_frames": 10**9}, "num_frames=1000000000 is out of range"),
        ({"seed": 2147483647, "batch_size": 2}, "seed=2147483647 with batch_size=2"),
    ],
)
def test_an_input_that_only_the_model_forbids_is_rejected_before_any_work(
    zeroscope: Served, inputs: dict[str, Any], message: str
) -> None:
    answer = zeroscope.server.predict(INPUTS | inputs)
    assert answer["status"] == "failed"
    assert f"InvalidInput: {message}" in answer["error"]
    assert answer["logs"] == ""


def test_the_number_of_frames_that_an_error_suggests_is_accepted(zeroscope: Served) -> None:
    error = zeroscope.server.predict(INPUTS | {"num_frames": 10**9})["error"]
    maximum = int(re.findall(r"try (\d+)", error)[0])
    assert maximum > 24
    # another fault, so that no video is made
    answer = zeroscope.server.predict(INPUTS | {"num_frames": maximum, "fps": 0})
    assert "num_frames" not in answer["error"]
    assert "num_frames" in zeroscope.server.predict(INPUTS | {"num_frames": maximum + 1, "fps": 0})["error"]


@pytest.mark.parametrize("model", CONTRACT["model"]["enum"])
def test_every_model_makes_videos_from_text_and_from_a_video(
    zeroscope: Served, expected: bytes, clip: bytes, model: str
) -> None:
    from_text = videos(zeroscope.server.predict(INPUTS | {"model": model}))
    inputs = {"model": model, "init_video": data_uri(clip), "init_weight": 0.4}
    from_video = videos(zeroscope.server.predict(INPUTS | inputs))
    assert from_text != from_video
    assert (from_text == [expected]) == (model == "xl")


def test_a_url_and_a_data_uri_of_a_video_give_the_same(zeroscope: Served, site: WeightServer, clip: bytes) -> None:
    site.files["/clip.mp4"] = clip
    inputs = INPUTS | {"num_inference_steps": 2}
    url, data = (inputs | {"init_video": video} for video in (f"{site.url}/clip.mp4", data_uri(clip)))
    assert videos(zeroscope.server.predict(url)) == videos(zeroscope.server.predict(data))


def test_the_files_are_mp4s_that_browsers_play(zeroscope: Served, clip: bytes, tmp_path: Path) -> None:
    inputs = {"width": 264, "fps": 7, "batch_size": 2, "num_frames": 3, "init_video": data_uri(clip)}
    answer = zeroscope.server.predict(INPUTS | inputs)
    assert answer["metrics"]["seed"] == 3
    assert (answer["metrics"]["frames"], answer["metrics"]["duration"]) == (3, pytest.approx(3 / 7))
    for index, content in enumerate(videos(answer)):
        file = tmp_path / "video.mp4"
        file.write_bytes(content)
        probe = [needs("ffprobe"), "-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json", file]
        facts = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)
        (stream,) = facts["streams"]
        properties = {"codec_name": "h264", "pix_fmt": "yuv420p", "width": 264, "height": 256, "nb_read_frames": "3"}
        properties |= {"avg_frame_rate": "7/1", "color_space": "bt709"}
        assert {key: stream[key] for key in properties} == properties
        assert float(facts["format"]["duration"]) == pytest.approx(3 / 7, abs=1e-3)
        assert content.index(b"moov") < content.index(b"mdat")
        provenance = json.loads(facts["format"]["tags"]["comment"])
        # the inputs of this video alone
        assert provenance["seed"] == provenance["inputs"]["seed"] == 3 + index
        assert provenance["inputs"]["batch_size"] == 1
        assert provenance["inputs"]["init_video"].startswith("sha256:")
        assert provenance["inputs"].keys() == CONTRACT.keys()


def test_a_batch_has_the_videos_of_its_seeds_in_order(zeroscope: Served, expected: bytes) -> None:
    batch = videos(zeroscope.server.predict(INPUTS | {"batch_size": 3}))
    alone = [videos(zeroscope.server.predict(INPUTS | {"seed": seed}))[0] for seed in (3, 4, 5)]
    assert batch == alone
    assert alone[0] == expected
    assert len(set(batch)) == 3


def test_init_weight_0_ignores_the_video_and_1_ignores_the_prompt(
    zeroscope: Served, expected: bytes, clip: bytes, tmp_path: Path
) -> None:
    def predict(**inputs: Any) -> np.ndarray:
        return decode_mp4(*videos(zeroscope.server.predict(INPUTS | {"init_video": data_uri(clip)} | inputs)))

    assert np.array_equal(predict(init_weight=0), decode_mp4(expected))
    unchanged = predict(init_weight=1)
    assert np.array_equal(unchanged, predict(init_weight=1, prompt="the sea", num_inference_steps=500))
    assert not np.array_equal(unchanged, predict(init_weight=0))


def test_remove_watermark_changes_only_the_band(zeroscope: Served, expected: bytes, tmp_path: Path) -> None:
    (content,) = videos(zeroscope.server.predict(INPUTS | {"remove_watermark": True}))
    before, after = (decode_mp4(video).astype(int) for video in (expected, content))
    difference = np.abs(before - after).mean(axis=(0, 2, 3))  # of each row
    # the band is rows 140 to 195 of 256; the encoder changes the blocks of 16 rows around it
    assert difference[144:192].min() > 5 * max(difference[:128].max(), difference[208:].max())


def test_one_seed_gives_the_same_file_and_a_failure_leaves_none(
    zeroscope: Served, expected: bytes, clip: bytes
) -> None:
    server = zeroscope.server
    for inputs in ({"model": "animov-512x"}, {"init_video": data_uri(clip)}, {"remove_watermark": True}):
        assert videos(server.predict(INPUTS | inputs)) != [expected]
    assert videos(server.predict(INPUTS)) == [expected]
    assert server.predict(INPUTS | {"init_video": data_uri(b"not a video")})["status"] == "failed"
    assert zeroscope.files() == []
    assert videos(server.predict(INPUTS)) == [expected]


def test_the_default_seed_is_random(zeroscope: Served) -> None:
    inputs = {name: value for name, value in INPUTS.items() if name != "seed"}
    assert len({zeroscope.server.predict(inputs)["metrics"]["seed"] for _ in range(2)}) == 2


# a weight of 1 skips the UNet, so only the stage to be cancelled takes long
VIDEO_INPUTS = INPUTS | {"num_frames": 24, "init_weight": 1, "seed": 8}


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        ("decode: ", VIDEO_INPUTS),  # while the VAE encodes the video
        ("0/500 denoise, video 1 of 1", INPUTS | {"num_inference_steps": 500}),
        ("denoise: ", VIDEO_INPUTS),  # while the VAE decodes and the frames are encoded
        ("denoise: ", VIDEO_INPUTS | {"remove_watermark": True}),
        ("denoise, video 2 of 2", INPUTS | {"num_frames": 4, "batch_size": 2}),
    ],
    ids=["init_video", "denoise", "decode", "watermark", "second video"],
)
def test_a_cancel_in_any_stage_leaves_the_server_ready_and_no_file(
    zeroscope: Served, expected: bytes, clip: bytes, text: str, inputs: dict[str, Any]
) -> None:
    video = {"init_video": data_uri(clip)} if "init_weight" in inputs else {}
    answer = zeroscope.cancel_at(inputs | video, text)
    assert answer["status"] == "canceled"
    assert zeroscope.files() == []
    assert videos(zeroscope.server.predict(INPUTS)) == [expected]


def test_a_new_process_gives_the_same_file_after_a_cancel_while_a_model_was_loaded(
    expected: bytes, tmp_path: Path
) -> None:
    log: list[str] = []
    env = {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    with CogServer(ROOT / "zeroscope", env=env, on_log=log.append) as server:
        fresh = Served(server, tmp_path, log)
        answer = fresh.cancel_at(INPUTS | {"model": "576w", "num_inference_steps": 500}, "seed: ")
        assert answer["status"] == "canceled"
        assert videos(server.predict(INPUTS)) == [expected]
        assert videos(server.predict(INPUTS | {"model": "576w"})) != [expected]
        assert videos(server.predict(INPUTS)) == [expected]


@pytest.mark.parametrize(
    "prompts",
    [
        {"prompt": "--remove-watermark", "negative_prompt": "-n"},
        {"prompt": "赤い円 🔴 é\u0301 \u202e\x01 دائرة", "negative_prompt": "𝕬" * 50},
        {"prompt": "a red circle, " * 2000, "negative_prompt": "blue " * 300},
        {"prompt": "", "negative_prompt": ""},
    ],
    ids=["dashes", "any script", "long", "empty"],
)
def test_any_text_is_a_prompt(zeroscope: Served, prompts: dict[str, str]) -> None:
    assert videos(zeroscope.server.predict(INPUTS | prompts))


def test_every_hostile_video_gives_a_clip_or_a_clear_error_in_a_gigabyte(
    zeroscope: Served, expected: bytes, site: WeightServer, hostile: Path
) -> None:
    failures = {}
    assert videos(zeroscope.server.predict(INPUTS)) == [expected]
    before = zeroscope.reset_peak()
    for name, message in hostile_videos.TABLE.items():
        path = hostile / name
        if message == hostile_videos.NO_FILE:
            continue  # these have no URL
        content = path.read_bytes()
        site.files[f"/{quote(name)}"] = content
        # small files as data URIs, with an unspecific media type
        video = f"{site.url}/{quote(name)}" if len(content) > 5000 else data_uri(content, "application/octet-stream")
        answer = zeroscope.server.predict(INPUTS | {"num_frames": 1, "init_weight": 1, "init_video": video})
        if message is None:
            correct = answer["status"] == "succeeded" and len(videos(answer)) == 1
        else:
            correct = (
                answer["status"] == "failed" and "InvalidInput: " in answer["error"] and message in answer["error"]
            )
        if not correct or "\n" in answer.get("error", ""):
            failures[name] = (message, answer.get("error", answer["status"]))
    assert not failures
    assert zeroscope.peak() - before < 1_000_000
    assert videos(zeroscope.server.predict(INPUTS)) == [expected]


def test_a_url_without_a_video_gives_a_clear_error(zeroscope: Served, expected: bytes, site: WeightServer) -> None:
    site.plan("/redirect", *["/redirect"] * 100)
    site.files["/stalls.mp4"] = bytes(100_000)
    site.plan("/stalls.mp4", "stall")  # after half of the file
    errors = {
        f"{site.url}/missing.mp4": "404",
        f"{site.url}/redirect": "redirects",
        f"{site.url}/stalls.mp4": "timed out",  # after Cog's ten seconds
        "http://127.0.0.1:9/video.mp4": "refused",  # no server listens
        **dict.fromkeys(
            ("ftp://127.0.0.1/video.mp4", "file:///etc/passwd", "no address", ""),
            "is not an http(s):// URL or a data: URI",
        ),
        "data:video/mp4;base64,!!!": "not a video",
    }
    failures = {}
    for address, message in errors.items():
        answer = zeroscope.server.predict(INPUTS | {"init_video": address})
        clear = "InvalidInput: " in answer["error"] or answer["error"].startswith("Input validation error: ")
        if answer["status"] != "failed" or not clear or message not in answer["error"]:
            failures[address] = answer["error"]
    assert not failures
    assert videos(zeroscope.server.predict(INPUTS)) == [expected]
