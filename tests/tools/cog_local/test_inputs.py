"""Specification of cog_local.inputs: `-i` and `--json` become the inputs of the server, or a list of all faults."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from cog_local.inputs import InvalidInputs, read_inputs

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: dict[str, Any] = {
    "components": {
        "schemas": {
            "Input": {
                "required": ["prompt"],
                "properties": {
                    "prompt": {"type": "string", "maxLength": 20},
                    "steps": {"type": "integer", "minimum": 1, "maximum": 100, "default": 25},
                    "scale": {"type": "number", "minimum": 1, "maximum": 10, "default": 7.5},
                    "loop": {"type": "boolean", "default": False},
                    "mode": {"allOf": [{"$ref": "#/components/schemas/mode"}], "default": "a"},
                    "seed": {"type": "integer", "nullable": True},
                    "image": {"type": "string", "format": "uri", "nullable": True},
                    "words": {"type": "array", "items": {"type": "string"}, "default": []},
                },
            },
            "mode": {"enum": ["a", "b"], "type": "string"},
        }
    }
}


def faults(pairs: list[str], json: str | None = None) -> tuple[str, ...]:
    with pytest.raises(InvalidInputs) as caught:
        read_inputs(SCHEMA, pairs, json)
    return caught.value.faults


def test_values_are_typed_by_the_schema() -> None:
    pairs = ["prompt=5", "steps=5", "scale=5", "loop=True", "mode=b", "seed=-3"]
    inputs = read_inputs(SCHEMA, pairs)
    assert inputs == {"prompt": "5", "steps": 5, "scale": 5.0, "loop": True, "mode": "b", "seed": -3}
    assert isinstance(inputs["scale"], float)


def test_a_whole_float_is_an_integer() -> None:
    for pairs, json in ((["prompt=x", "steps=5.0"], None), (["prompt=x"], '{"steps": 5.0}')):
        steps = read_inputs(SCHEMA, pairs, json)["steps"]
        assert (steps, type(steps)) == (5, int)
    assert faults(["prompt=x", "steps=5.5"]) == ("steps=5.5 is not a whole number",)
    assert faults(["prompt=x", f"steps={'9' * 5000}"]) == ("steps has 5000 digits",)


def test_a_text_keeps_its_equals_signs_spaces_and_at_sign() -> None:
    assert read_inputs(SCHEMA, ["prompt= @a=b "]) == {"prompt": " @a=b "}


def test_a_list_takes_its_name_several_times_or_once() -> None:
    assert read_inputs(SCHEMA, ["prompt=x", "words=a", "words=b"])["words"] == ["a", "b"]
    assert read_inputs(SCHEMA, ["prompt=x", "words=a"])["words"] == ["a"]
    assert faults(["prompt=x", "steps=1", "steps=2"]) == ("steps is given 2 times, and takes one value",)


def test_a_file_becomes_a_data_uri(tmp_path: Path) -> None:
    (tmp_path / "a=b.png").write_bytes(b"\x00\xff")
    # AP8= is the base64 of RFC 4648 for the two bytes.
    image = read_inputs(SCHEMA, ["prompt=x", f"image=@{tmp_path}/a=b.png"])["image"]
    assert image == "data:image/png;base64,AP8="
    assert read_inputs(SCHEMA, ["prompt=x", "image=https://host/a.png"])["image"] == "https://host/a.png"


def test_json_comes_from_a_text_a_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.json").write_text('{"prompt": "x", "steps": 3}')
    expected = {"prompt": "x", "steps": 3}
    assert read_inputs(SCHEMA, [], '{"prompt": "x", "steps": 3}') == expected
    assert read_inputs(SCHEMA, [], str(tmp_path / "in.json")) == expected
    assert read_inputs(SCHEMA, [], f"@{tmp_path}/in.json") == expected
    monkeypatch.setattr("sys.stdin", io.StringIO('{"prompt": "x", "steps": 3}'))
    assert read_inputs(SCHEMA, [], "-") == expected


def test_a_name_in_both_has_the_value_of_i() -> None:
    assert read_inputs(SCHEMA, ["steps=4"], '{"prompt": "x", "steps": 3}') == {"prompt": "x", "steps": 4}


def test_null_for_an_optional_input_leaves_it_out() -> None:
    # Cog's server refuses an explicit null.
    assert read_inputs(SCHEMA, [], '{"prompt": "x", "seed": null}') == {"prompt": "x"}
    assert faults([], '{"prompt": null}') == ("prompt=None is not of type 'string'",)


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    pairs = ["stepz=3", "steps=101", "scale=nan", "loop=maybe", "mode=c", "seed=1.5", "image=@nowhere.png", "nonsense"]
    assert set(faults(pairs)) == {
        "-i nonsense: write name=value, or name=@file",
        "stepz is not an input; did you mean steps? (all: prompt, steps, scale, loop, mode, seed, image, words)",
        "steps=101 is greater than the maximum of 100",
        "scale=nan is not a number",
        "loop=maybe is neither true nor false",
        "mode='c' is not one of ['a', 'b']",
        "seed=1.5 is not a whole number",
        "image: nowhere.png cannot be read: no such file or directory",
        "prompt is required",
    }


@pytest.mark.parametrize(
    ("json", "fault"),
    [
        ("{", "--json: not JSON"),
        ("[1]", "--json: not an object of names and values"),
        ("nowhere.json", "--json nowhere.json: no such file"),
        ('{"prompt": 5}', "prompt=5 is not of type 'string'"),
        ('{"prompt": "x", "steps": true}', "steps=True is not of type 'integer'"),
        ('{"prompt": "x", "steps": 5.5}', "steps=5.5 is not a whole number; try 5 or 6"),
        ('{"prompt": "x", "seed": -0.0}', "seed=-0.0 is not a whole number; try 0"),
        ('{"prompt": "x", "scale": NaN}', "--json: not JSON: NaN is not a number of JSON"),
        ('{"prompt": "x", "scale": -Infinity}', "--json: not JSON: -Infinity is not a number of JSON"),
        ('{"prompt": "x", "scale": 1e400}', "scale=inf is not a number of JSON"),
        ('{"prompt": "a\\ud800"}', "prompt: character 2 is half of a surrogate pair, not Unicode"),
        (f'{{"prompt": {"[" * 100_000}', "--json: nested too deeply"),
        (f'{{"prompt": "x", "image": "{"a" * 1000}"}}', "image is not a URL; write image=@aaa"),
        ('{"prompt": "x", "steps": 0}', "steps=0 is less than the minimum of 1"),
        ('{"prompt": "x", "words": ["a", 1]}', "words=1 is not of type 'string'"),
        ('{"prompt": "a text of 21 letters "}', "prompt='a text of 21 letters ' is longer than 20 characters"),
        (f'{{"prompt": "{"long" * 50}"}}', "prompt is longer than 20 characters"),
        ('{"prompt": "x", "image": "a.png"}', "image='a.png' is not a URL; write image=@a.png to send a file"),
    ],
)
def test_inputs_from_json_are_checked(json: str, fault: str) -> None:
    (line,) = [line for line in faults([], json) if line != "prompt is required"]
    assert fault in line
    assert len(line) < 200
