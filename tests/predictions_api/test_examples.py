"""READMEs, examples and empty lists, which official clients read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_in_process import TOKEN, ApiInProcess
from predictions_api.settings import ModelSettings
from replicate_contract import check_response

OURS, DOCUMENTED = "1" * 64, "2" * 64
README = """# A model

Makes clips – with an en dash.

| a | b |
|---|---|
| [clip](examples/one%20clip.mp4) | [another file](../LICENSE) |

<script>alert(1)</script> <img src="x" onerror="alert(2)"> [a link](javascript:alert(3)) <a href="data:,4">4</a>
"""
EXAMPLE: dict[str, Any] = {
    "id": "abcdefghijklmnopqrstuvwxyz",
    "model": "documented/name",
    "version": DOCUMENTED,
    "input": {"prompt": "a circle", "init_video": "in.mp4"},
    "logs": "",
    "output": ["one clip.mp4"],
    "data_removed": False,
    "error": None,
    "source": "api",
    "status": "succeeded",
    "created_at": "2026-01-01T00:00:00Z",
    "metrics": {"seed": 3},
}


def model(name: str, **paths: Path) -> ModelSettings:
    return ModelSettings(name, (OURS, DOCUMENTED), urls=("http://127.0.0.1:9",), **paths)  # nothing listens there


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    files = tmp_path_factory.mktemp("examples")
    (files / "README.md").write_text(README, "utf-8")
    examples, broken = files / "examples", files / "broken"
    examples.mkdir()
    broken.mkdir()
    for name, example in {"b.json": EXAMPLE, "a.json": EXAMPLE | {"id": "a" * 26, "output": []}}.items():
        (examples / name).write_text(json.dumps(example))
    (examples / "one clip.mp4").write_bytes(b"a clip")
    (examples / "in.mp4").write_bytes(b"another")
    (broken / "a.json").write_text("{}")
    models = (
        model("test/broken", readme=files / "missing.md", examples=broken),
        model("test/whole", readme=files / "README.md", examples=examples),
        model("test/bare"),
    )
    with ApiInProcess(tmp_path_factory.mktemp("api"), models=models) as running:
        running.http.event_hooks = {"response": [check_response]}
        yield running


def test_a_readme_is_answered_as_text(api: ApiInProcess) -> None:
    answer = api.http.get("/v1/models/test/whole/readme")
    assert answer.text == README
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"  # the type in Replicate's document


def test_a_client_that_accepts_html_receives_the_readme_without_scripts(api: ApiInProcess) -> None:
    headers = {"Accept": "text/html", "Authorization": f"Bearer {TOKEN}"}
    answer = api.anonymous_http.get("/v1/models/test/whole/readme", headers=headers)  # HTML is not Replicate's
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>A model</h1>" in answer.text
    clip = f"{api.url}/v1/models/test/whole/examples/one%20clip.mp4"
    assert re.findall(r'(?:href|src|on\w+)="([^"]*)"', answer.text) == [clip]
    assert "another file</a></td>" in answer.text
    assert "alert" not in re.sub(r"\[a link\]\S+", "", answer.text)  # only as a text


def test_examples_are_predictions_of_the_newest_version_in_the_order_of_their_files(api: ApiInProcess) -> None:
    page = api.http.get("/v1/models/test/whole/examples").json()
    assert (page["next"], page["previous"]) == (None, None)
    first, second = page["results"]
    assert (first["id"], second["id"]) == ("a" * 26, EXAMPLE["id"])
    assert (second["model"], second["version"]) == ("test/whole", OURS)
    assert second["input"]["prompt"] == "a circle"
    assert second["metrics"] == {"seed": 3}


def test_the_files_of_an_example_have_urls_that_need_no_token(api: ApiInProcess) -> None:
    example = api.http.get("/v1/models/test/whole/examples").json()["results"][1]
    for url, content in {example["output"][0]: b"a clip", example["input"]["init_video"]: b"another"}.items():
        answer = api.anonymous_http.get(url)
        assert (answer.content, answer.headers["content-type"]) == (content, "video/mp4")
        part = api.anonymous_http.get(url, headers={"range": "bytes=1-2"})  # as a video element reads it
        assert (part.status_code, part.content) == (206, content[1:3])


def test_an_example_is_a_prediction_that_can_be_read_by_its_id(api: ApiInProcess) -> None:
    example = api.http.get("/v1/models/test/whole/examples").json()["results"][1]
    assert api.http.get(example["urls"]["get"]).json() == example
    assert api.http.post(example["urls"]["cancel"]).json() == example  # as any prediction that has ended
    assert api.http.get("/v1/predictions/unknown").status_code == 404


def test_the_first_example_is_the_default_of_its_model(api: ApiInProcess) -> None:
    assert api.http.get("/v1/models/test/whole").json()["default_example"]["id"] == "a" * 26
    assert api.http.get("/v1/models/test/bare").json()["default_example"] is None
    assert api.http.get("/v1/models/test/broken").json()["default_example"] is None


def test_a_model_without_a_readme_has_no_examples_either(api: ApiInProcess) -> None:
    assert api.http.get("/v1/models/test/bare/readme").status_code == 404
    assert api.http.get("/v1/models/test/bare/examples").json()["results"] == []


@pytest.mark.parametrize("page", ["readme", "examples"])
def test_files_that_cannot_be_read_are_answered_503(api: ApiInProcess, page: str) -> None:
    assert api.http.get(f"/v1/models/test/broken/{page}").status_code == 503


@pytest.mark.parametrize("name", ["b.json", "..%2FREADME.md", "%2e%2e", "missing.mp4", "."])
def test_only_the_files_of_examples_are_served(api: ApiInProcess, name: str) -> None:
    answer = api.anonymous_http.get(f"/v1/models/test/whole/examples/{name}")
    assert README not in answer.text
    assert answer.status_code in (401, 404)


@pytest.mark.parametrize("path", ["readme", "examples"])
def test_readmes_and_lists_of_examples_need_the_token(api: ApiInProcess, path: str) -> None:
    assert api.anonymous_http.get(f"/v1/models/test/whole/{path}").status_code == 401


@pytest.mark.parametrize("name", ["collections", "deployments", "trainings"])
def test_a_list_of_what_this_server_lacks_is_an_empty_page(api: ApiInProcess, name: str) -> None:
    page = api.http.get(f"/v1/{name}")
    assert (page.status_code, page.json()) == (200, {"next": None, "previous": None, "results": []})
    assert api.http.get(f"/v1/{name}/anything").status_code == 404
