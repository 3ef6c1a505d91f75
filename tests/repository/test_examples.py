"""The examples of every model: inputs that its schema allows, files that exist, and test cases of cog-safe-push."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cog_local.examples import SAFE_PUSH, example_paths, file_inputs, read_input, request_inputs, safe_push_config
from cog_local.inputs import InvalidInputs
from jsonschema import Draft202012Validator
from tree import ROOT, documented_name, models

MODELS = models("examples")
EXAMPLES = [path for model in MODELS for path in example_paths(ROOT / model)]
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
each_model = pytest.mark.parametrize("model", MODELS)

# The keys that Config allows in replicate/cog-safe-push@2ea3b29 cog_safe_push/config.py, without training, fuzzing
# and deployments, which these files do not use.
SCALAR = {"type": ["boolean", "number", "string", "array"], "items": {"type": ["integer", "number", "string"]}}
EXPECTATIONS = ["exact_string", "match_url", "match_prompt", "jq_query", "error_contains"]
TEST_CASE = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {"type": "object", "additionalProperties": SCALAR},
        **{name: {"type": "string"} for name in EXPECTATIONS},
    },
    "additionalProperties": False,
    "maxProperties": 2,  # the inputs, and at most one expectation
}
CONFIG = {
    "type": "object",
    "required": ["model"],
    "properties": {
        **{name: {"type": "string"} for name in ("model", "test_model", "test_hardware", "dockerfile")},
        **{name: {"type": "boolean"} for name in ("fast_push", "use_cog_base_image", "ignore_schema_compatibility")},
        "parallel": {"type": "integer"},
        "predict": {
            "type": "object",
            "properties": {
                "compare_outputs": {"type": "boolean"},
                "predict_timeout": {"type": "integer"},
                "test_cases": {"type": "array", "items": TEST_CASE},
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


def read(path: Path) -> dict[str, Any]:
    prediction: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return prediction


def output_names(path: Path) -> list[str]:
    output = read(path)["output"]
    return [output] if isinstance(output, str) else output


@each_model
def test_a_model_has_three_examples_or_more(model: str) -> None:
    assert len(example_paths(ROOT / model)) >= 3


@each_example
def test_the_inputs_of_an_example_are_valid(path: Path) -> None:
    request = request_inputs(path.parents[1], path)  # raises InvalidInputs
    assert request.keys() == read_input(path).keys()
    assert request["seed"] == read(path)["metrics"]["seed"] > 0  # so that the clip can be made again


def test_an_input_that_the_schema_does_not_have_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "example.json"
    path.write_text('{"input": {"prompt": "a circle", "steps": 101, "unknown": 1}}')
    with pytest.raises(InvalidInputs, match=r"(?s)steps.*unknown|unknown.*steps"):
        request_inputs(ROOT / "animate-diff", path)


@each_example
def test_the_output_of_an_example_is_in_its_directory(path: Path) -> None:
    assert all(name.startswith(f"{path.stem}.") for name in output_names(path))
    assert all((path.parent / name).stat().st_size > 1000 for name in output_names(path))
    published = json.loads((path.parents[1] / "openapi.json").read_text("utf-8"))["components"]["schemas"]["Output"]
    assert isinstance(read(path)["output"], list) == (published["type"] == "array")


@each_model
def test_every_file_of_the_examples_is_of_an_example(model: str) -> None:
    paths = example_paths(ROOT / model)
    named = {path.name for path in paths}.union(*map(output_names, paths))
    for path in paths:
        named.update(read_input(path)[name] for name in file_inputs(ROOT / model, read_input(path)))
    assert {path.name for path in (ROOT / model / "examples").iterdir()} == named


@each_example
def test_an_example_is_of_the_documented_model_and_version(path: Path) -> None:
    prediction = read(path)
    name, _, version = documented_name(path.parents[1].name).partition(":")
    assert (prediction["model"], prediction["version"]) == (name, version or "hidden")


def test_examples_have_different_ids() -> None:
    assert len({read(path)["id"] for path in EXAMPLES}) == len(EXAMPLES)


@each_model
def test_cog_safe_push_can_read_its_file(model: str) -> None:
    config = yaml.safe_load((ROOT / model / SAFE_PUSH).read_text("utf-8"))
    assert [error.message for error in Draft202012Validator(CONFIG).iter_errors(config)] == []


@each_model
def test_the_test_cases_of_cog_safe_push_are_the_examples(model: str) -> None:
    text = (ROOT / model / SAFE_PUSH).read_text("utf-8")
    assert text == safe_push_config(ROOT / model), f"run script/examples {model}"


@each_model
def test_a_readme_shows_the_examples(model: str) -> None:
    section = (ROOT / model / "README.md").read_text().partition("\n## Examples\n")[2].partition("\n## ")[0]
    for path in example_paths(ROOT / model):
        for name in (path.name, *output_names(path)):
            assert f"(examples/{name})" in section
        for name, value in read_input(path).items():
            if name.startswith("prompt"):
                assert f"`{value}`".replace("|", "\\|") in section


@each_model
def test_an_image_has_no_examples(model: str) -> None:
    lines = (ROOT / model / ".dockerignore").read_text().splitlines()
    assert {"examples", SAFE_PUSH} <= set(lines)
