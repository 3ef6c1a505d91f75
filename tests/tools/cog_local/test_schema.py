"""Specification of cog_local.schema: the document that Cog writes for a predict.py, or an error with the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cog_local.schema import SchemaError, openapi_schema, read_schema, schema_fault, write_schema
from tree import ROOT, models

MODELS = [*(ROOT / model for model in models()), *ROOT.glob("tests/predictions_api/models/*/")]
URI = {"type": "string", "format": "uri"}

HEAD = """from __future__ import annotations
from collections.abc import Iterator
from typing import Literal, Optional
import cog
from cog import BaseRunner, Input, Path
from somewhere import IMPORTED
CONSTANT = 5
TABLE = {"a": 1}
class Predictor(BaseRunner):
"""


def schema_of(directory: Path, arguments: str, output: str = "Path", decorator: str = "") -> dict[str, Any]:
    path = directory / "predict.py"
    path.write_text(f"{HEAD}    {decorator}\n    def run(self, {arguments}) -> {output}:\n        ...\n")
    return openapi_schema(path)


def inputs_of(directory: Path, arguments: str) -> dict[str, Any]:
    inputs: dict[str, Any] = schema_of(directory, arguments)["components"]["schemas"]["Input"]
    return inputs


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_the_committed_schema_matches_predict_py(model: Path) -> None:
    assert schema_fault(model) is None


def test_a_written_schema_is_read_again_and_reported_when_predict_py_changes(tmp_path: Path) -> None:
    document = schema_of(tmp_path, "x: int = Input(default=1)")
    assert str(schema_fault(tmp_path)).startswith(f"{tmp_path}/openapi.json is missing; run: script/schema ")
    assert json.loads(write_schema(tmp_path).read_text()) == read_schema(tmp_path) == document
    assert schema_fault(tmp_path) is None
    schema_of(tmp_path, "x: int = Input(default=2)")
    assert str(schema_fault(tmp_path)).startswith(f"{tmp_path}/openapi.json does not match predict.py; run: script/")


@pytest.mark.parametrize("text", [None, "<<<<<<< HEAD"])
def test_a_missing_or_broken_schema_names_the_command_that_writes_it(tmp_path: Path, text: str | None) -> None:
    if text:
        (tmp_path / "openapi.json").write_text(text)
    with pytest.raises(SchemaError, match="; run: script/schema "):
        read_schema(tmp_path)


# Expected values: measured with the generator of Cog 0.22 (replicate/cog at 6110c91, format in pkg/schema/openapi.go).


@pytest.mark.parametrize(
    ("declaration", "field"),
    [
        ('str = Input(description="words")', {"type": "string", "description": "words"}),
        ("Optional[str] = Input()", {"type": "string", "nullable": True}),
        ("str | None = Input(default=None)", {"type": "string", "nullable": True, "default": None}),
        ("float = Input(ge=1, le=10.0, default=7.5)", {"type": "number", "minimum": 1, "maximum": 10, "default": 7.5}),
        (
            'str = Input(min_length=1, max_length=9, regex=r"^a+$")',
            {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^a+$"},
        ),
        ("list[Path] = Input()", {"type": "array", "items": URI}),
    ],
)
def test_an_input_becomes_a_field(tmp_path: Path, declaration: str, field: dict[str, Any]) -> None:
    inputs = inputs_of(tmp_path, f"a: int = Input(default=1), my_text: {declaration}")
    expected = {"x-order": 1, "title": "My Text", **field}
    # as texts, because Go writes 10.0 as 10
    assert json.dumps(inputs["properties"]["my_text"], sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert inputs.get("required", []) == ([] if {"nullable", "default"} & set(field) else ["my_text"])


def test_choices_become_a_schema_that_the_input_refers_to(tmp_path: Path) -> None:
    schemas = schema_of(tmp_path, 'mode: str = Input(choices=["a", "b"], default="b")')["components"]["schemas"]
    choices = {"title": "mode", "description": "An enumeration.", "enum": ["a", "b"], "type": "string"}
    field = {"x-order": 0, "allOf": [{"$ref": "#/components/schemas/mode"}], "default": "b"}
    assert (schemas["mode"], schemas["Input"]["properties"]["mode"]) == (choices, field)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Path", URI),
        ("list[Path]", {"type": "array", "items": URI}),
        ("Iterator[Path]", {"type": "array", "items": URI, "x-cog-array-type": "iterator"}),
    ],
)
def test_outputs(tmp_path: Path, output: str, expected: dict[str, Any]) -> None:
    schema = schema_of(tmp_path, "x: int = Input(default=1)", output)["components"]["schemas"]["Output"]
    assert schema == {"title": "Output", **expected}


@pytest.mark.parametrize("decorator", ["@cog.streaming", "@streaming"])
def test_a_streaming_method_is_marked_in_the_document(tmp_path: Path, decorator: str) -> None:
    plain = schema_of(tmp_path, "x: int = Input(default=1)", "Iterator[Path]")
    marked = schema_of(tmp_path, "x: int = Input(default=1)", "Iterator[Path]", decorator)
    assert "x-cog-streaming" not in plain["paths"]["/predictions"]["post"]
    assert marked["paths"]["/predictions"]["post"]["x-cog-streaming"] is True


@pytest.mark.parametrize(
    "arguments",
    [
        "x: str = Input(default=None)",  # becomes required
        "x: int = Input(default=IMPORTED)",  # dropped, so that the input becomes required
        "x: int = Input(default=CONSTANT)",  # Cog resolves it; one form is enough
        "x: str = Input(choices=list(TABLE))",
        "x: str = Input(choices=[*TABLE])",
        "x: str = Input(choices=IMPORTED)",
        "x: Literal['a'] = Input(default='a')",
        "x: int = Input(ge=CONSTANT, default=9)",  # dropped: parseNumberLiteral of pkg/schema/python/literals.go
        "x: int = Input(le=2**31 - 1, default=9)",
        "x: int = Input(le=1_000, default=9)",
        'x: str = Input(default="a\\tb")',  # read with its backslash: parseStringLiteral there
        'x: str = Input(description="a" "b")',  # read as `a" "b`
        'x: str = Input(description=f"{CONSTANT}")',
        'x: str = Input(choices=[\n"a",  # why\n"b"])',  # Cog cannot resolve a list with a comment: parseListLiteral
        "x: int = Input(5)",
        "x: int = Input(default_factory=int)",
        "x: int = Input(**TABLE)",
        "x: int = Input(deprecated=True)",
        "x: int",
        "x: int = cog.Input(default=5)",
        "x: int = 5",
        "x=Input(default=5)",
        "x: int = Input(default='five')",
        "x: int = Input(default=0, ge=1)",
        "x: Path = Input(default='a.png')",
        "x: dict = Input()",
        "x: int | str = Input()",
        "x: list[Optional[int]] = Input()",
        "x: str = Input(choices=['a'], default='b')",
        "x: list[str] = Input(choices=['a'])",
        "*, x: int = Input(default=1)",
        "**inputs: int",
    ],
)
def test_what_cog_refuses_or_misreads_raises_an_error_with_the_line(tmp_path: Path, arguments: str) -> None:
    with pytest.raises(SchemaError, match=r"predict\.py:1[12345]: "):
        schema_of(tmp_path, arguments)


def test_a_path_that_is_not_cogs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "predict.py"
    text = "from pathlib import Path\nfrom cog import Input\nclass Predictor:\n    def run(self) -> Path: ...\n"
    path.write_text(text)
    with pytest.raises(SchemaError, match="Path is not imported from cog"):
        openapi_schema(path)


@pytest.mark.parametrize("text", ["", "class Predictor:\n    pass\n", "def broken(:\n"])
def test_a_file_without_a_predictor_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "predict.py").write_text(text)
    with pytest.raises(SchemaError, match=r"predict\.py:1: "):
        openapi_schema(tmp_path / "predict.py")


def test_cogs_own_inspector_finds_the_same_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A second implementation: cog._inspector imports the class.
    from cog import _inspector

    text = (
        "from typing import Optional\nfrom cog import BaseRunner, Input, Path\n"
        "class Predictor(BaseRunner):\n    def run(self,\n"
        '        prompt: str = Input(default="a cat", description="the prompt", max_length=50),\n'
        "        steps: int = Input(default=25, ge=1, le=100),\n"
        "        scale: float = Input(default=7.5, ge=1.0, le=10),\n"
        "        loop: bool = Input(default=False),\n"
        '        mode: str = Input(choices=["a", "b"], default="a"),\n'
        '        seed: Optional[int] = Input(description="Seed"),\n'
        "        images: list[Path] = Input(),\n"
        "        size: int | None = Input(default=None, ge=8),\n"
        "    ) -> list[Path]: ...\n"
    )
    (tmp_path / "inspected_predict.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    inspected = _inspector.create_predictor("inspected_predict", "Predictor")

    schemas = openapi_schema(tmp_path / "inspected_predict.py")["components"]["schemas"]
    inputs = schemas["Input"]["properties"]
    assert list(inputs) == list(inspected.inputs)
    for name, field in inspected.inputs.items():
        keys = ("x-order", "default", "description", "minimum", "maximum", "maxLength")
        expected = (field.order, field.default, field.description, field.ge, field.le, field.max_length)
        assert tuple(map(inputs[name].get, keys)) == expected
        assert schemas.get(name, {}).get("enum") == field.choices
        repetition = field.type.repetition.name
        assert inputs[name].get("nullable", False) == repetition.startswith("OPTIONAL")
        kind = {**schemas.get(name, {}), **inputs[name]}
        primitive = kind["items"] if repetition == "REPEATED" else kind
        json_type = field.type.primitive.json_type()
        assert {key: primitive.get(key) for key in json_type} == json_type
    assert schemas["Output"] == inspected.output.json_type()
