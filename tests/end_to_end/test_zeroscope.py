"""zeroscope through Cog's own server: the documented contract, videos from anywhere, and what a caller may rely on."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import hostile_videos
import numpy as np
import pytest
from cog_local.server import CogServer
from hostile_videos import numbered, write_clip
from programs import needs
from served import Served, files
from tree import ROOT
from weight_server import WeightServer, serving

# The inputs as Replicate documents anotherjesse/zeroscope-v2-xl, version
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
QUICK = {"prompt": "a red circle", "width": 256, "height": 256, "num_frames": 2, "num_inference_steps": 1, "seed": 3}


def videos(answer: dict[str, Any]) -> list[bytes]:
    """The files of a prediction that has succeeded, each an MP4."""
    found = files(answer)
    assert {kind for kind, _ in found} == {"video/mp4"}
    return [content for _, content in found]


def pictures(video: bytes, directory: Path) -> np.ndarray:
    """The pictures of a file, (F, H, W, 3)."""
    file = directory / "video.mp4"
    file.write_bytes(video)
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def data_uri(content: bytes, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="module")
def expected(zeroscope: Served) -> bytes:
    """What QUICK gives, the first time that this server is asked."""
    (content,) = videos(zeroscope.server.predict(QUICK))
    return content


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of another size, length and rate than what is made of it."""
    frames = (numbered(index, 96, 64) for index in range(12))
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames).read_bytes()


@pytest.fixture
def site() -> Iterator[WeightServer]:
    with serving({}) as server:
        yield server


def test_the_schema_is_the_documented_contract(zeroscope: Served) -> None:
    assert zeroscope.inputs() == CONTRACT
    schemas = zeroscope.server.get("/openapi.json")["components"]["schemas"]
    assert "required" not in schemas["Input"]
    optional = {name for name, field in schemas["Input"]["properties"].items() if field.get("nullable")}
    assert optional == {"negative_prompt", "init_video", "seed"}
    output = schemas["Output"]
    assert (output["type"], output["items"]) == ("array", {"type": "string", "format": "uri"})
    assert "x-cog-array-type" not in output  # all at once, in order


@pytest.mark.parametrize(
    ("inputs", "field", "message"),
    [
        ({"width": 248}, "width", "248 is less than the minimum of 256"),
        ({"height": 255}, "height", "255 is less than the minimum of 256"),
        ({"num_inference_steps": 501}, "num_inference_steps", "501 is greater than the maximum of 500"),
        ({"guidance_scale": 0.5}, "guidance_scale", "0.5 is less than the minimum of 1"),
        ({"batch_size": 0}, "batch_size", "0 is less than the minimum of 1"),
        ({"model": "zeroscope"}, "model", "is not one of"),
        ({"fps": 7.5}, "fps", 'is not of type "integer"'),
        ({"init_video": 5}, "init_video", 'is not of type "string"'),
    ],
)
def test_what_the_contract_forbids_is_refused_by_the_server(
    zeroscope: Served, inputs: dict[str, Any], field: str, message: str
) -> None:
    answer = zeroscope.server.predict(QUICK | inputs)
    assert "status" not in answer
    assert [detail["loc"] for detail in answer["detail"]] == [["body", "input", field]]
    assert message in answer["detail"][0]["msg"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"width": 500}, "width=500 is not a multiple of 8; try 496 or 504"),
        ({"height": 257}, "height=257 is not a multiple of 8; try 256 or 264"),
        ({"fps": 0}, "fps=0 is out of range (1 to 120); try 1"),
        ({"fps": 121}, "fps=121 is out of range (1 to 120); try 120"),
        ({"init_weight": 1.5}, "init_weight=1.5 is out of range (0 to 1); try 1"),
        ({"init_weight": -0.1}, "init_weight=-0.1 is out of range (0 to 1); try 0"),
        ({"num_frames": 0}, "num_frames=0 is out of range"),
        ({"num_frames": 10**9}, "num_frames=1000000000 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range (0 to 2147483647); omit it for a random one"),
        ({"seed": 2147483647, "batch_size": 2}, "seed=2147483647 with batch_size=2"),
    ],
)
def test_what_the_contract_does_not_say_is_refused_before_any_work(
    zeroscope: Served, inputs: dict[str, Any], message: str
) -> None:
    answer = zeroscope.server.predict(QUICK | inputs)
    assert answer["status"] == "failed"
    assert f"InvalidInput: {message}" in answer["error"]
    assert answer["logs"] == ""


def test_the_largest_count_of_frames_that_a_refusal_names_is_not_refused(zeroscope: Served) -> None:
    refusal = zeroscope.server.predict(QUICK | {"num_frames": 10**9})["error"]
    most = int(re.findall(r"try (\d+)", refusal)[0])
    assert most > 24
    # one fault more, so that nothing is made of it
    answer = zeroscope.server.predict(QUICK | {"num_frames": most, "fps": 0})
    assert "num_frames" not in answer["error"]
    assert "num_frames" in zeroscope.server.predict(QUICK | {"num_frames": most + 1, "fps": 0})["error"]


@pytest.mark.parametrize("model", CONTRACT["model"]["enum"])
def test_every_model_makes_videos_of_text_and_of_video(
    zeroscope: Served, expected: bytes, clip: bytes, model: str
) -> None:
    of_text = videos(zeroscope.server.predict(QUICK | {"model": model}))
    of_video = videos(
        zeroscope.server.predict(QUICK | {"model": model, "init_video": data_uri(clip), "init_weight": 0.4})
    )
    assert of_text != of_video
    assert (of_text == [expected]) == (model == "xl")


def test_a_video_is_the_same_wherever_it_comes_from(zeroscope: Served, site: WeightServer, clip: bytes) -> None:
    site.files["/clip.mp4"] = clip
    inputs = QUICK | {"num_inference_steps": 2}
    url, data = (inputs | {"init_video": video} for video in (f"{site.url}/clip.mp4", data_uri(clip)))
    assert videos(zeroscope.server.predict(url)) == videos(zeroscope.server.predict(data))


def test_the_files_are_what_browsers_and_replicate_play(zeroscope: Served, clip: bytes, tmp_path: Path) -> None:
    inputs = {"width": 264, "fps": 7, "batch_size": 2, "num_frames": 3, "init_video": data_uri(clip)}
    answer = zeroscope.server.predict(QUICK | inputs)
    assert answer["metrics"]["seed"] == 3
    assert (answer["metrics"]["frames"], answer["metrics"]["duration"]) == (3, pytest.approx(3 / 7))
    for index, content in enumerate(videos(answer)):
        file = tmp_path / "video.mp4"
        file.write_bytes(content)
        probe = [needs("ffprobe"), "-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json", file]
        found = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)
        (stream,) = found["streams"]
        wanted = {"codec_name": "h264", "pix_fmt": "yuv420p", "width": 264, "height": 256, "nb_read_frames": "3"}
        wanted |= {"avg_frame_rate": "7/1", "color_space": "bt709"}
        assert {key: stream[key] for key in wanted} == wanted
        assert float(found["format"]["duration"]) == pytest.approx(3 / 7, abs=1e-3)
        assert content.index(b"moov") < content.index(b"mdat")
        provenance = json.loads(found["format"]["tags"]["comment"])
        # what makes this video again, alone
        assert provenance["seed"] == provenance["inputs"]["seed"] == 3 + index
        assert provenance["inputs"]["batch_size"] == 1
        assert provenance["inputs"]["init_video"].startswith("sha256:")
        assert provenance["inputs"].keys() == CONTRACT.keys()


def test_a_batch_has_the_videos_of_its_seeds_in_order(zeroscope: Served, expected: bytes) -> None:
    batch = videos(zeroscope.server.predict(QUICK | {"batch_size": 3}))
    alone = [videos(zeroscope.server.predict(QUICK | {"seed": seed}))[0] for seed in (3, 4, 5)]
    assert batch == alone
    assert alone[0] == expected
    assert len(set(batch)) == 3


def test_a_weight_of_0_leaves_nothing_of_the_video_and_1_leaves_nothing_of_the_text(
    zeroscope: Served, expected: bytes, clip: bytes, tmp_path: Path
) -> None:
    def made(**inputs: Any) -> np.ndarray:
        return pictures(*videos(zeroscope.server.predict(QUICK | {"init_video": data_uri(clip)} | inputs)), tmp_path)

    assert np.array_equal(made(init_weight=0), pictures(expected, tmp_path))
    whole = made(init_weight=1)
    assert np.array_equal(whole, made(init_weight=1, prompt="the sea", num_inference_steps=500))
    assert not np.array_equal(whole, made(init_weight=0))


def test_only_the_watermarks_band_changes(zeroscope: Served, expected: bytes, tmp_path: Path) -> None:
    (content,) = videos(zeroscope.server.predict(QUICK | {"remove_watermark": True}))
    before, after = (pictures(video, tmp_path).astype(int) for video in (expected, content))
    difference = np.abs(before - after).mean(axis=(0, 2, 3))  # of every row
    # rows 140 to 195 of 256; around them the encoder's blocks of 16 differ
    assert difference[144:192].min() > 5 * max(difference[:128].max(), difference[208:].max())


def test_one_seed_gives_the_same_file_whatever_ran_before(zeroscope: Served, expected: bytes, clip: bytes) -> None:
    server = zeroscope.server
    for inputs in ({"model": "animov-512x"}, {"init_video": data_uri(clip)}, {"remove_watermark": True}):
        assert videos(server.predict(QUICK | inputs)) != [expected]
    assert videos(server.predict(QUICK)) == [expected]
    assert server.predict(QUICK | {"init_video": data_uri(b"no video")})["status"] == "failed"
    assert videos(server.predict(QUICK)) == [expected]


def test_without_a_seed_it_is_random(zeroscope: Served) -> None:
    inputs = {name: value for name, value in QUICK.items() if name != "seed"}
    assert len({zeroscope.server.predict(inputs)["metrics"]["seed"] for _ in range(2)}) == 2


# through the VAE and back, without the UNet: what is long is only what is to be cancelled
VIDEO = QUICK | {"num_frames": 24, "init_weight": 1, "seed": 8}


@pytest.mark.parametrize(
    ("reached", "inputs"),
    [
        ("decode: ", VIDEO),  # the video has been read, and goes through the VAE
        ("0/500 denoise, video 1 of 1", QUICK | {"num_inference_steps": 500}),
        ("denoise: ", VIDEO),  # the VAE and the video encoder
        ("denoise: ", VIDEO | {"remove_watermark": True}),
        ("denoise, video 2 of 2", QUICK | {"num_frames": 4, "batch_size": 2}),
    ],
    ids=["init_video", "denoise", "decode", "watermark", "second video"],
)
def test_a_cancel_in_any_phase_leaves_the_server_ready_and_clean(
    zeroscope: Served, expected: bytes, clip: bytes, reached: str, inputs: dict[str, Any]
) -> None:
    video = {"init_video": data_uri(clip)} if "init_weight" in inputs else {}
    answer = zeroscope.cancel_at(inputs | video, reached)
    assert answer["status"] == "canceled"
    assert zeroscope.files() == []
    assert videos(zeroscope.server.predict(QUICK)) == [expected]


def test_a_new_process_gives_the_same_file_and_stops_while_it_loads(expected: bytes, tmp_path: Path) -> None:
    log: list[str] = []
    env = {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    with CogServer(ROOT / "zeroscope", env=env, on_log=log.append) as server:
        fresh = Served(server, tmp_path, log)
        assert (
            fresh.cancel_at(QUICK | {"model": "576w", "num_inference_steps": 500}, "seed: ")["status"] == "canceled"
        )
        assert videos(server.predict(QUICK)) == [expected]
        assert videos(server.predict(QUICK | {"model": "576w"})) != [expected]
        assert videos(server.predict(QUICK)) == [expected]


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
    assert videos(zeroscope.server.predict(QUICK | prompts))


def test_every_hostile_video_gives_a_clip_or_a_clear_refusal_in_a_gigabyte(
    zeroscope: Served, expected: bytes, site: WeightServer, hostile: Path
) -> None:
    wrong = {}
    assert videos(zeroscope.server.predict(QUICK)) == [expected]
    before = zeroscope.reset_peak()
    for name, message in hostile_videos.TABLE.items():
        path = hostile / name
        if message == hostile_videos.NO_FILE:
            continue  # no address names these
        content = path.read_bytes()
        site.files[f"/{quote(name)}"] = content
        # the small ones as data, with a kind that says nothing
        video = f"{site.url}/{quote(name)}" if len(content) > 5000 else data_uri(content, "application/octet-stream")
        answer = zeroscope.server.predict(QUICK | {"num_frames": 1, "init_weight": 1, "init_video": video})
        if message is None:
            right = answer["status"] == "succeeded" and len(videos(answer)) == 1
        else:
            right = answer["status"] == "failed" and "InvalidInput: " in answer["error"] and message in answer["error"]
        if not right or "\n" in answer.get("error", ""):
            wrong[name] = (message, answer.get("error", answer["status"]))
    assert not wrong
    assert zeroscope.peak() - before < 1_000_000
    assert videos(zeroscope.server.predict(QUICK)) == [expected]


def test_an_address_without_a_video_is_a_clear_error(zeroscope: Served, expected: bytes, site: WeightServer) -> None:
    site.plan("/round", *["/round"] * 100)
    site.files["/stalls.mp4"] = bytes(100_000)
    site.plan("/stalls.mp4", "stall")  # half of it comes, and then nothing
    refusals = {
        f"{site.url}/missing.mp4": "404",
        f"{site.url}/round": "redirects",
        f"{site.url}/stalls.mp4": "timed out",  # after Cog's ten seconds
        "http://127.0.0.1:9/video.mp4": "refused",  # nobody listens
        **dict.fromkeys(("ftp://127.0.0.1/video.mp4", "file:///etc/passwd", "no address", ""), "neither an http"),
        "data:video/mp4;base64,!!!": "no video",
    }
    wrong = {}
    for address, message in refusals.items():
        answer = zeroscope.server.predict(QUICK | {"init_video": address})
        clear = "InvalidInput: " in answer["error"] or answer["error"].startswith("Input validation error: ")
        if answer["status"] != "failed" or not clear or message not in answer["error"]:
            wrong[address] = answer["error"]
    assert not wrong
    assert videos(zeroscope.server.predict(QUICK)) == [expected]
