"""script/serve with the three models and their demo weights: documented requests and the official client.

The requests come from the API pages of the three models, and from a reseller's page for animate-diff. Only the host
and the token are changed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import replicate
from programs import needs
from replicate_contract import check_answer
from tree import ROOT, documented_name

TOKEN = "end-to-end"
DOCUMENTED = {
    "animate-diff": "beecf59c4aee8d81bf04f0381033dfa10dc16e845b4ae00d281e2fa377e48a9f",
    "sd-animation": "ca1f5e306e5721e19c473e0d094e6603f0456fe759c10715fcd6c1b79242d4a5",
    "zeroscope": "9f747673945c62801b13b84701c783929c0ee784e4748ec062204894dda1a351",
}
PREFIXES = ["", "/v1", "/replicate/v1"]

# As on the page, whose generator wrote [object Object] for the values of headers.
PAGE_CREATE = """\
curl -X POST https://api.replicate.com/predictions \\
  -H 'Content-Type: application/json' \\
  -H 'Accept: application/json' \\
  -H 'Authorization: [object Object]' \\
  -H 'Content-Type: [object Object]'"""
PAGE_GET = """\
curl -X GET https://api.replicate.com/predictions/{prediction_id} \\
  -H 'Accept: application/json' \\
  -H 'Authorization: [object Object]'"""
PAGE_LIST = PAGE_GET.replace("/{prediction_id}", "")
PAGE_CANCEL = PAGE_GET.replace("GET", "POST").replace("{prediction_id}", "{prediction_id}/cancel")
PAGE_INPUTS: dict[str, dict[str, Any]] = {  # the body parameter's defaults
    "animate-diff": {
        "guidance_scale": 7.5,
        "motion_module": "mm_sd_v14",
        "n_prompt": "",
        "path": "toonyou_beta3.safetensors",
        "prompt": (
            "masterpiece, best quality, 1girl, solo, cherry blossoms, hanami, pink flower, white flower, "
            "spring season, wisteria, petals, flower, plum blossoms, outdoors, falling petals, white hair, black eyes"
        ),
        "steps": 25,
    },
    "sd-animation": {
        "film_interpolation": True,
        "gif_frames_per_second": 20,
        "gif_ping_pong": False,
        "guidance_scale": 7.5,
        "height": 512,
        "intermediate_output": False,
        "num_animation_frames": 10,
        "num_inference_steps": 50,
        "num_interpolation_steps": 5,
        "output_format": "gif",
        "prompt_end": "a forest in winter",  # the page has no default for the two prompts
        "prompt_start": "a forest in summer",
        "prompt_strength": 0.8,
        "width": 512,
    },
    "zeroscope": {
        "batch_size": 1,
        "fps": 8,
        "guidance_scale": 7.5,
        "height": 320,
        "init_weight": 0.5,
        "model": "xl",
        "num_frames": 24,
        "num_inference_steps": 50,
        "prompt": "An astronaut riding a horse",
        "remove_watermark": False,
        "width": 576,
    },
}
RESELLER_CREATE = """\
curl --location --request POST '%s/replicate/v1/predictions' \\
--header 'Authorization: Bearer %s' \\
--header 'Content-Type: application/json' \\
--data-raw '{
    "version": "%s",
    "input": {
      "path": "toonyou_beta3.safetensors",
      "seed": 255224557,
      "steps": 25,
      "prompt": "masterpiece, best quality, 1girl, solo, cherry blossoms, hanami, pink flower, white flower, spring season, wisteria, petals, flower, plum blossoms, outdoors, falling petals, white hair, black eyes",
      "n_prompt": "badhandv4, easynegative, ng_deepnegative_v1_75t, verybadimagenegative_v1.3, bad-artist, bad_prompt_version2-neg, teeth",
      "motion_module": "mm_sd_v14",
      "guidance_scale": 7.5
    }
  }'"""  # noqa: E501 (copied unchanged)


@dataclass
class Api:
    """A running server."""

    url: str

    def curl(self, command: str, *more: str) -> Any:
        """Run a documented command with our token, check the answer and return its JSON."""
        needs("curl")
        command = command.replace("'Authorization: [object Object]'", f"'Authorization: Bearer {TOKEN}'")
        command = command.replace("'Content-Type: [object Object]'", "'Content-Type: application/json'")
        command += r" -s -w '\n%{http_code} %{content_type} %{method} %{url}' " + " ".join(more)
        process = subprocess.run(
            ["sh", "-c", command], stdout=subprocess.PIPE, check=True, encoding="utf-8", timeout=60
        )
        body, _, summary = process.stdout.rpartition("\n")
        status, kind, method, url = re.fullmatch(r"(\d+) (\S+) (\S+) (\S+)", summary).groups()  # type: ignore[union-attr]
        check_answer(method, url, int(status), kind, body.encode())
        return json.loads(body)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    data = tmp_path_factory.mktemp("api")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("REPLICATE", "DBOS"))}
    environ |= {"REPLICATE_API_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as log:
        serve = [sys.executable, ROOT / "script" / "serve", "--port", "0", "--data", data]
        with subprocess.Popen(serve, env=environ, stdout=subprocess.PIPE, stderr=log, encoding="utf-8") as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            log.seek(0)
            assert " is ready at " in line, log.read()
            try:
                yield Api(line.split(" is ready at ")[1].split()[0])
            finally:
                process.send_signal(signal.SIGTERM)


def test_every_model_is_served_with_its_documented_version_id(api: Api) -> None:
    for model, version in DOCUMENTED.items():
        name, _, _ = documented_name(model).partition(":")
        path = f"{api.url}/v1/models/{name}/versions/{version}"
        assert api.curl(PAGE_LIST.replace("https://api.replicate.com/predictions", path))["id"] == version


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("model", DOCUMENTED)
def test_the_requests_of_the_models_pages_work(api: Api, model: str, prefix: str) -> None:
    def curl(command: str, *more: str) -> Any:
        return api.curl(command.replace("https://api.replicate.com", api.url + prefix), *more)

    body = {"version": DOCUMENTED[model], "input": PAGE_INPUTS[model], "webhook_events_filter": "start,completed"}
    created = curl(PAGE_CREATE, f"--data '{json.dumps(body)}'")
    get = PAGE_GET.replace("{prediction_id}", created["id"])
    canceled = curl(PAGE_CANCEL.replace("{prediction_id}", created["id"]))
    assert (created["status"], canceled["status"]) == ("starting", "canceled")
    assert curl(get) == canceled
    assert curl(PAGE_LIST)["results"][0]["id"] == created["id"]


def test_a_create_without_a_body_is_400_and_asks_for_json(api: Api) -> None:
    answer = api.curl(PAGE_CREATE.replace("https://api.replicate.com", api.url))
    assert answer["status"] == 400
    assert "JSON" in answer["detail"]


@pytest.mark.parametrize("version", [DOCUMENTED["animate-diff"], f"lucataco/animate-diff:{DOCUMENTED['animate-diff']}"])
def test_the_resellers_request_works(api: Api, version: str) -> None:
    created = api.curl(RESELLER_CREATE % (api.url, TOKEN, version))
    assert (created["model"], created["version"]) == ("lucataco/animate-diff", DOCUMENTED["animate-diff"])
    assert (created["status"], created["logs"], created["output"]) == ("starting", "", None)
    assert created["input"]["seed"] == 255224557
    assert set(created["urls"]) == {"cancel", "get", "stream", "web"}
    canceled = api.curl(
        PAGE_CANCEL.replace("https://api.replicate.com", api.url).replace("{prediction_id}", created["id"])
    )
    assert canceled["status"] == "canceled"


# A user's code for Replicate, unchanged. The environment has the URL and the token.
USER_CODE = """
import replicate, sys
output = replicate.run(
    "lucataco/animate-diff:beecf59c4aee8d81bf04f0381033dfa10dc16e845b4ae00d281e2fa377e48a9f",
    input={"prompt": "a red circle moving right", "seed": 3, "steps": 2},
)
with open(sys.argv[1], "wb") as file:
    file.write(output.read())
"""


def test_code_for_replicate_runs_with_only_the_environment_changed(api: Api, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    environ = {**os.environ, "REPLICATE_BASE_URL": api.url, "REPLICATE_API_TOKEN": TOKEN}
    subprocess.run([sys.executable, "-c", USER_CODE, target], env=environ, check=True, timeout=120)
    probe = [needs("ffprobe"), "-v", "error", "-count_frames", "-show_entries", "stream=codec_name,nb_read_frames"]
    process = subprocess.run([*probe, "-of", "csv=p=0", target], stdout=subprocess.PIPE, check=True, encoding="utf-8")
    assert process.stdout.strip() == "h264,16"


def test_the_frames_of_an_animation_are_streamed_as_files(api: Api) -> None:
    client = replicate.Client(api_token=TOKEN, base_url=api.url)
    prediction = client.predictions.create(
        version=DOCUMENTED["sd-animation"],
        input={
            "prompt_start": "a red circle",
            "prompt_end": "a blue circle",
            "width": 128,
            "height": 128,
            "num_inference_steps": 2,
            "num_animation_frames": 2,
            "num_interpolation_steps": 1,
            "intermediate_output": True,
            "seed": 1,
        },
    )
    urls = [event.data for event in prediction.stream() if event.event.value == "output"]
    client._client.close()
    kinds = [httpx.get(url, timeout=60).headers["content-type"] for url in urls]
    assert kinds == ["image/png"] * (len(kinds) - 1) + ["image/gif"]
    assert len(kinds) > 1


def test_the_stream_of_a_clip_is_its_file_at_the_end(api: Api) -> None:
    client = replicate.Client(api_token=TOKEN, base_url=api.url)
    model = f"lucataco/animate-diff:{DOCUMENTED['animate-diff']}"
    events = list(client.stream(model, input={"prompt": "a red circle", "seed": 3, "steps": 2}))
    client._client.close()
    (url,) = [event.data for event in events if event.event.value == "output"]
    assert httpx.get(url, timeout=60).headers["content-type"] == "video/mp4"
    assert events[-1].event.value == "done"
