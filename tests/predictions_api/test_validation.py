"""Specification of validation: what a request may contain, told in the words of Replicate's answers.

Bodies marked "wire" were recorded from Replicate; the other texts are those of xeipuuv/gojsonschema's locales.go, which
the recorded ones quote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cog_local.schema import openapi_schema, read_schema
from predictions_api.errors import Problem
from predictions_api.http.validation import check_inputs, check_request, parse_json
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
    """Return (type, field, description) of each fault."""
    with pytest.raises(Problem) as caught:
        check_inputs(schema, inputs)
    body = caught.value.body()
    assert (body["status"], body["title"]) == (422, "Input validation failed")
    return [(fault["type"], fault["field"], fault["description"]) for fault in body["invalid_fields"]]


def test_a_missing_input_is_told_as_replicate_tells_it(files_schema: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        check_inputs(files_schema, {})
    assert caught.value.body() == {  # wire
        "detail": "- input: prompt is required\n",
        "status": 422,
        "title": "Input validation failed",
        "invalid_fields": [{"type": "required", "field": "input", "description": "prompt is required"}],
    }


def test_what_a_request_lacks_or_has_too_much_is_told_as_replicate_tells_it() -> None:
    with pytest.raises(Problem) as caught:
        check_request({"model": "o/n", "input": {}}, needs_version=True)
    extra = "Additional property model is not allowed"
    assert caught.value.body() == {  # wire
        "detail": f"- version is required\n- {extra}\n",
        "status": 422,
        "title": "Input validation failed",
        "invalid_fields": [
            {"type": "required", "field": "", "description": "version is required"},
            {"type": "additional_property_not_allowed", "field": "", "description": extra},
        ],
    }


def test_a_wrong_choice_is_told_as_replicate_tells_it(files_schema: dict[str, Any]) -> None:
    choice = 'format must be one of the following: "jpg", "png"'  # wire, for another input
    assert refusal(files_schema, {"prompt": "abc", "format": "gif"}) == [("enum", "input.format", choice)]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"steps": 101}, ("number_lte", "input.steps", "Must be less than or equal to 100")),  # wire, with 4
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
def test_a_wrong_value_is_told_with_its_bound_or_type(inputs: dict[str, Any], told: tuple[str, str, str]) -> None:
    assert refusal(SCHEMA, inputs) == [told]


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a", ("string_gte", "input.prompt", "String length must be greater than or equal to 2")),
        ("abcde", ("string_lte", "input.prompt", "String length must be less than or equal to 4")),
        ("AB", ("pattern", "input.prompt", "Does not match pattern '^[a-z]*$'")),
    ],
)
def test_a_wrong_text_is_told_with_its_bound(
    files_schema: dict[str, Any], prompt: str, told: tuple[str, str, str]
) -> None:
    assert refusal(files_schema, {"prompt": prompt}) == [told]


def test_every_fault_is_told_at_once() -> None:
    faults = refusal(SCHEMA, {"steps": 0, "guidance_scale": 11, "path": "none"})
    assert {field for _, field, _ in faults} == {"input.steps", "input.guidance_scale", "input.path"}


def test_a_required_input_cannot_be_null(files_schema: dict[str, Any]) -> None:
    told = ("invalid_type", "input.prompt", "Invalid type. Expected: string, given: null")
    assert refusal(files_schema, {"prompt": None}) == [told]


def test_unknown_inputs_and_optional_nulls_are_dropped_and_no_default_is_filled_in() -> None:
    # Dropped: "to match Replicate's historical API behavior", replicate/cog routes.rs.
    assert check_inputs(SCHEMA, {"steps": 2, "seed": None, "prompt": None, "colour": "red"}) == {"steps": 2}


@pytest.mark.parametrize(
    "value", ["http://host/a.png", "https://host:8/a", "data:image/png;base64,AA==", "data:,", "https://[::1]/a"]
)
def test_a_file_is_a_url_or_a_data_uri(files_schema: dict[str, Any], value: str) -> None:
    inputs = {"prompt": "abc", "image": value, "images": [value]}
    assert check_inputs(files_schema, inputs) == inputs


@pytest.mark.parametrize("value", ["a.png", "file:///etc/passwd", "ftp://host/a", "http:///a", "data:", "https://[::1"])
def test_anything_else_is_no_file(files_schema: dict[str, Any], value: str) -> None:
    told = "Does not match format 'uri'"
    assert refusal(files_schema, {"prompt": "abc", "image": value, "images": [value]}) == [
        ("format", "input.image", told),
        ("format", "input.images.0", told),
    ]


def test_a_schema_cannot_make_the_server_fetch_another() -> None:
    schema = {"components": {"schemas": {"Input": {"properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}}}}}
    with pytest.raises(Unresolvable):
        check_inputs(schema, {"a": 1})


def test_the_events_of_a_webhook_come_as_a_list_or_as_one_string() -> None:
    body = {"version": "v", "input": {}, "webhook": "https://host/"}
    for events in (["start", "completed"], "start,completed", " start, completed,"):
        asked = check_request({**body, "webhook_events_filter": events}, needs_version=True)
        assert asked.webhook_events_filter == ("start", "completed")
    assert check_request(body, needs_version=True).webhook_events_filter is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], ""),
        (None, ""),
        ({"version": 1, "input": {}}, "version"),
        ({"version": "v", "input": []}, "input"),
        ({"version": "v", "input": {}, "webhook": None}, "webhook"),
        ({"version": "v", "input": {}, "stream": "yes"}, "stream"),
        ({"version": "v", "input": {}, "webhook_events_filter": "start,end"}, "webhook_events_filter.1"),
        ({"version": "v", "input": {}, "webhook_events_filter": [["start"]]}, "webhook_events_filter.0"),
    ],
)
def test_a_wrong_member_of_a_request_is_named(body: Any, field: str) -> None:
    with pytest.raises(Problem) as caught:
        check_request(body, needs_version=True)
    assert {fault["field"] for fault in caught.value.fields["invalid_fields"]} == {field}


def test_the_version_is_no_part_of_a_request_to_a_model() -> None:
    assert check_request({"input": {"a": 1}}, needs_version=False).input == {"a": 1}
    with pytest.raises(Problem, match="Additional property version is not allowed"):
        check_request({"input": {}, "version": "v"}, needs_version=False)


def test_a_flood_of_faults_gives_a_bounded_answer() -> None:
    with pytest.raises(Problem) as caught:
        check_request({str(number) * 200: 0 for number in range(10_000)}, needs_version=True)
    assert len(caught.value.detail) < 100_000


def test_whole_numbers_may_be_written_with_a_point() -> None:
    value = parse_json(b'{"steps": 4.0, "more": [2e3, 4.5, -0.0]}')
    assert value == {"steps": 4, "more": [2000, 4.5, 0]}
    assert isinstance(value["steps"], int)
    assert isinstance(value["more"][0], int)


def test_whole_numbers_too_large_for_a_float_stay_what_they_are() -> None:
    assert parse_json(b"1234567890123456789012345678901") == 1234567890123456789012345678901
    assert parse_json(b"1e300") == 1e300


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"\xff",
        '{"a": 1}'.encode("utf-16"),
        b"NaN",
        b"-Infinity",
        b"1e400",
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b"9" * 5000,
        b"[" * 65 + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b"[" * 1_000_000,
    ],
)
def test_what_is_no_json_or_cannot_be_passed_on_is_refused(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        parse_json(body)
    assert caught.value.status == 400
    assert len(caught.value.detail) < 300


def test_sixty_four_levels_are_taken() -> None:
    assert parse_json(b"[" * 64 + b"]" * 64)
