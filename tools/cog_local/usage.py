"""What `script/predict MODEL --help` shows of a model. Supports Python 3.8, needs no package."""

from __future__ import annotations

import json
import shlex
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from pathlib import Path

_KINDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
_EXAMPLES = 2


def declared_inputs(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the inputs of an OpenAPI document by name, with the type and the choices that they refer to."""
    schemas = schema["components"]["schemas"]
    inputs = {}
    for name, field in schemas["Input"]["properties"].items():
        for reference in field.get("allOf", []):
            field = {**schemas[reference["$ref"].rpartition("/")[2]], **field}
        inputs[name] = {key: value for key, value in field.items() if key != "allOf"}
    return inputs


def add_inputs(parser: ArgumentParser, model_dir: Path) -> None:
    """Let a parser understand `--name value` for each input of a model as `-i name=value`, and show it in its help.

    A model without openapi.json has none here; a prediction reports what is wrong with the file.
    """
    try:
        schema = json.loads((model_dir / "openapi.json").read_text("utf-8"))
    except (OSError, ValueError):
        return
    group = parser.add_argument_group("inputs", "each as --NAME VALUE, as -i NAME=VALUE, or as NAME=VALUE")
    required = schema["components"]["schemas"]["Input"].get("required", [])
    for name, field in declared_inputs(schema).items():
        text = ". ".join(filter(None, [field.get("description"), _values(field, name in required)]))
        group.add_argument(
            f"--{name}",
            action="append",
            dest="input",
            type=partial("{}={}".format, name),
            metavar="VALUE",
            help=text.replace("%", "%%"),
        )


def _values(field: dict[str, Any], required: bool) -> str:
    """Return the type, the bounds and the default of an input."""
    item = field.get("items", field)
    if item.get("format") == "uri":
        kind = "@FILE, or a URL"
    elif "enum" in item:
        kind = ", ".join(map(str, item["enum"]))
    else:
        kind = _KINDS[item["type"]]
    if field["type"] == "array":
        kind += ", may be repeated"
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        kind += f" from {low} to {high}"
    elif low is not None or high is not None:
        kind += f", at least {low}" if high is None else f", at most {high}"
    if required:
        return f"{kind}; required"
    return kind if field.get("default") is None else f"{kind}; default: {json.dumps(field['default'])}"


def example_commands(model_dir: Path) -> list[str]:
    """Return commands that make the first examples of a model again, or its defaults if it has no examples."""
    commands = []
    for path in _examples(model_dir)[:_EXAMPLES]:
        words = ["script/predict", model_dir.name]
        for name, value in json.loads(path.read_text("utf-8"))["input"].items():
            words += ["-i", shlex.quote(f"{name}={value if isinstance(value, str) else json.dumps(value)}")]
        commands.append(" ".join(words))
    return commands or [f"script/predict {model_dir.name}"]


def example_outputs(model_dir: Path) -> list[Path]:
    """Return the files that the examples of a model have."""
    outputs = [json.loads(path.read_text("utf-8")).get("output", []) for path in _examples(model_dir)]
    names = [name for output in outputs for name in (output if isinstance(output, list) else [output])]
    return [model_dir / "examples" / name for name in names]


def _examples(model_dir: Path) -> list[Path]:
    return sorted((model_dir / "examples").glob("*.json"))
