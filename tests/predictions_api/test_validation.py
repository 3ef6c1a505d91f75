"""Validation of requests, with the messages of Replicate's answers.

Bodies marked "recorded" are Replicate's. The other messages come from locales.go of xeipuuv/gojsonschema, which
Replicate uses.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from cog_local.schema import openapi_schema, read_schema
from predictions_api.errors import Problem
from predictions_api.http.validation import check_inputs, check_request
from referencing.exceptions import Unresolvable
from tree import ROOT

SCHEMA = read_schema(ROOT / "animate-diff")

FILES = """
from typing import Optional
from cog import BaseRunner, Input, Path
class Predictor(BaseRunner):
    def run(
        self,
        prompt: str = Input(description="words", min_length=2, max_length=4, regex="^[a-z]*$"),
        image: Optional[Path] = Input(description="a file"),
        images: list[Path] = Input(description="files", default=[]),
        format: str = Input(description="a choice", choices=["jpg", "png"], default="jpg"),
    ) -> str:
        return ""
"""


@pytest.fixture
def files_schema(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "predict.py").write_text(FILES)
    return openapi_schema(tmp_path / "predict.py")


def refusal(schema: dict[str, Any], inputs: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (type, field, description) of every fault in the answer."""
    with pytest.raises(Problem) as caught:
        check_inputs(schema, inputs)
    body = caught.value.body()
    assert (body["status"], body["title"]) == (422, "Input validation failed")
    return [(fault["type"], fault["field"], fault["description"]) for fault in body["invalid_fields"]]


def test_a_missing_input_is_refused_with_replicates_error(files_schema: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        check_inputs(files_schema, {})
    assert caught.value.body() == {  # recorded
        "detail": "- input: prompt is required\n",
        "status": 422,
        "title": "Input validation failed",
        "invalid_fields": [{"type": "required", "field": "input", "description": "prompt is required"}],
    }


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({"steps": 101}, ("number_lte", "input.steps", "Must be less than or equal to 100")),  # recorded, with 4
        ({"steps": 0}, ("number_gte", "input.steps", "Must be greater than or equal to 1")),
        ({"guidance_scale": 0.5}, ("number_gte", "input.guidance_scale", "Must be greater than or equal to 1")),
        ({"steps": "4"}, ("invalid_type", "input.steps", "Invalid type. Expected: integer, given: string")),
        ({"steps": 4.5}, ("invalid_type", "input.steps", "Invalid type. Expected: integer, given: number")),
        ({"steps": True}, ("invalid_type", "input.steps", "Invalid type. Expected: integer, given: boolean")),
        ({"prompt": 1}, ("invalid_type", "input.prompt", "Invalid type. Expected: string, given: integer")),
        ({"prompt": ["a"]}, ("invalid_type", "input.prompt", "Invalid type. Expected: string, given: array")),
        ({"prompt": {}}, ("invalid_type", "input.prompt", "Invalid type. Expected: string, given: object")),
    ],
)
def test_a_value_out_of_bounds_or_of_the_wrong_type_is_refused(
    inputs: dict[str, Any], fault: tuple[str, str, str]
) -> None:
    assert refusal(SCHEMA, inputs) == [fault]


@pytest.mark.parametrize(
    ("name", "value", "kind", "description"),
    [
        ("prompt", "a", "string_gte", "String length must be greater than or equal to 2"),
        ("prompt", "abcde", "string_lte", "String length must be less than or equal to 4"),
        ("prompt", "AB", "pattern", "Does not match pattern '^[a-z]*$'"),
        ("prompt", None, "invalid_type", "Invalid type. Expected: string, given: null"),
        ("format", "gif", "enum", 'format must be one of the following: "jpg", "png"'),  # recorded, for another input
    ],
)
def test_a_text_that_its_declaration_does_not_allow_is_refused(
    files_schema: dict[str, Any], name: str, value: str | None, kind: str, description: str
) -> None:
    assert refusal(files_schema, {"prompt": "abc", name: value}) == [(kind, f"input.{name}", description)]


def test_all_faults_are_in_one_answer() -> None:
    faults = refusal(SCHEMA, {"steps": 0, "guidance_scale": 11, "path": "none"})
    assert {field for _, field, _ in faults} == {"input.steps", "input.guidance_scale", "input.path"}


def test_unknown_inputs_and_optional_nulls_are_dropped_and_defaults_are_not_added() -> None:
    # Dropped: "to match Replicate's historical API behavior", replicate/cog routes.rs.
    assert check_inputs(SCHEMA, {"steps": 2, "seed": None, "prompt": None, "colour": "red"}) == {"steps": 2}


@pytest.mark.parametrize(
    "value", ["http://host/a.png", "https://host:8/a", "data:image/png;base64,AA==", "data:,", "https://[::1]/a"]
)
def test_a_file_is_a_url_or_a_data_uri(files_schema: dict[str, Any], value: str) -> None:
    inputs = {"prompt": "abc", "image": value, "images": [value]}
    assert check_inputs(files_schema, inputs) == inputs


@pytest.mark.parametrize("value", ["a.png", "file:///etc/passwd", "ftp://host/a", "http:///a", "data:", "https://[::1"])
def test_another_value_of_a_file_input_is_refused(files_schema: dict[str, Any], value: str) -> None:
    message = "Does not match format 'uri'"
    assert refusal(files_schema, {"prompt": "abc", "image": value, "images": [value]}) == [
        ("format", "input.image", message),
        ("format", "input.images.0", message),
    ]


def test_a_url_in_a_schema_is_not_fetched() -> None:
    schema = {"components": {"schemas": {"Input": {"properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}}}}}
    with pytest.raises(Unresolvable):
        check_inputs(schema, {"a": 1})


def test_the_events_of_a_webhook_are_a_list_or_a_comma_separated_string() -> None:
    body = {"version": "v", "input": {}, "webhook": "https://host/"}
    for events in (["start", "completed"], "start,completed", " start, completed,"):
        request = check_request({**body, "webhook_events_filter": events}, needs_version=True)
        assert request.webhook_events_filter == ["start", "completed"]
    assert check_request(body, needs_version=True).webhook_events_filter is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], ""),
        (None, ""),
        ({"version": 1, "input": {}}, "version"),
        ({"version": "v", "input": []}, "input"),
        ({"version": None, "input": {}}, "version"),
        ({"version": "v" * 513, "input": {}}, "version"),
        ({"version": "v", "input": {}, "webhook": "https://host/" + "a" * 8192}, "webhook"),
        ({"version": "v", "input": {}, "webhook_events_filter": ["start"] * 17}, "webhook_events_filter"),
        ({"version": "v", "input": {}, "stream": "yes"}, "stream"),
        ({"version": "v", "input": {}, "webhook_events_filter": "start,end"}, "webhook_events_filter.1"),
        ({"version": "v", "input": {}, "webhook_events_filter": [["start"]]}, "webhook_events_filter.0"),
    ],
)
def test_an_invalid_member_of_a_request_is_named(body: Any, field: str) -> None:
    with pytest.raises(Problem) as caught:
        check_request(body, needs_version=True)
    assert {fault["field"] for fault in caught.value.fields["invalid_fields"]} == {field}


@pytest.mark.parametrize("name", ["webhook", "webhook_events_filter", "stream"])
def test_null_for_an_optional_member_is_as_absent(name: str) -> None:
    body = {"version": "v", "input": {}}
    assert check_request({**body, name: None}, needs_version=True) == check_request(body, needs_version=True)


def test_a_request_to_the_path_of_a_model_has_no_version() -> None:
    assert check_request({"input": {"a": 1}}, needs_version=False).input == {"a": 1}
    with pytest.raises(Problem, match="Additional property version is not allowed"):
        check_request({"input": {}, "version": "v"}, needs_version=False)


def test_ten_thousand_faults_give_an_answer_below_100_kb() -> None:
    with pytest.raises(Problem) as caught:
        check_request({str(number) * 200: 0 for number in range(10_000)}, needs_version=True)
    assert len(caught.value.detail) < 100_000


LONG = 2**25


@pytest.mark.parametrize(
    "body",
    [
        {"input": {}, "version": "v", "webhook_events_filter": ["start"] * 10**6},
        {"input": {}, "version": "v", "webhook_events_filter": ["end"] * 10**6},
        {"input": {}, "version": "v", "webhook_events_filter": "end," * (LONG // 4)},
        {"input": {}, "version": "v", "webhook_events_filter": ["a" * LONG]},
        {"input": {}, "version": "v" * LONG},
        {"input": {}, "version": "v", "webhook": ["a" * LONG, ["b"] * 10**6]},
        {"input": ["a" * LONG], "version": {"a": ["b"] * 10**6}},
        {str(number): 0 for number in range(10**6)},
    ],
    ids=["events", "unknown events", "text of events", "event", "version", "webhook", "types", "members"],
)
def test_a_huge_request_is_refused_in_a_moment(body: Any) -> None:
    began = time.process_time()
    with pytest.raises(Problem) as caught:
        check_request(body, needs_version=True)
    assert time.process_time() - began < 1, "processor time; a million events took 12 s"
    assert len(caught.value.detail) < 100_000


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({"prompt": "a" * LONG}, "input.prompt"),
        ({"format": "a" * LONG}, "input.format"),
        ({"prompt": ["a" * LONG]}, "input.prompt"),
        ({"prompt": "abc", "image": "http://host/" + "a" * LONG}, "input.image"),
        ({"prompt": "abc", "image": "data:" + "a" * LONG}, "input.image"),
        ({"prompt": "abc", "images": "data:," + "a" * LONG}, "input.images"),
        ({"prompt": "abc", "images": [1] * 10_000}, "input.images.0"),
    ],
)
def test_a_huge_input_is_refused_in_a_moment(files_schema: dict[str, Any], inputs: dict[str, Any], field: str) -> None:
    began = time.process_time()
    faults = refusal(files_schema, inputs)
    assert time.process_time() - began < 1, "processor time"
    assert field in {fault[1] for fault in faults}
    assert sum(map(len, faults[0])) < 300
    assert len(faults) <= 100


def test_a_large_data_uri_of_a_file_input_is_accepted_and_unchanged(files_schema: dict[str, Any]) -> None:
    inputs = {"prompt": "abc", "image": "data:video/mp4;base64," + "A" * LONG}
    assert check_inputs(files_schema, inputs) == inputs
