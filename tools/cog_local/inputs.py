"""A prediction's inputs, from what `cog predict` takes (`-i name=value`, `-i name=@file`, `--json`), checked.

Checked against the model's schema, so that a wrong input costs no start of a server, which would say the same; and
for unknown names, which the server drops in silence.
"""

from __future__ import annotations

import base64
import difflib
import json
import math
import mimetypes
import re
import sys
from pathlib import Path
from typing import Any

from cog_local.schema import PYTHON_TYPES, Schema


class BadInputs(Exception):
    """The inputs are wrong; `faults` has one line for each fault."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def read_inputs(schema: Schema, pairs: list[str], json_argument: str | None = None) -> dict[str, Any]:
    """Return the inputs for the server from `-i` arguments and `--json`; a name in both has the value of its `-i`.

    `schema` is a whole OpenAPI document. Raises BadInputs with all faults.
    """
    fields = {name: _resolved(schema, field) for name, field in _properties(schema).items()}
    faults: list[str] = []
    inputs: dict[str, Any] = {}
    try:
        inputs.update(_read_json(json_argument))
    except BadInputs as error:
        faults += error.faults
    texts: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            faults.append(f"-i {pair}: write name=value, or name=@file")
            continue
        texts.setdefault(name.strip(), []).append(text)
    for name, values in texts.items():
        inputs[name] = values  # so that an unknown name is told of below
        if name in fields:
            try:
                inputs[name] = _typed(name, fields[name], values)
            except BadInputs as error:
                faults += error.faults
                del inputs[name]
                fields[name] = {"nullable": True}  # told of already
    required = _schemas(schema)["Input"].get("required", [])
    faults += [f"{name} is required" for name in required if name not in inputs and "nullable" not in fields[name]]
    for name, value in list(inputs.items()):
        if name not in fields:
            faults.append(_unknown(name, list(fields)))
        elif value is None and "nullable" in fields[name]:
            del inputs[name]  # the server refuses null, and takes a name left out for it
        elif fault := _fault(name, value, fields[name]):
            faults.append(fault)
    if faults:
        raise BadInputs(*faults)
    return inputs


def _schemas(schema: Schema) -> Schema:
    schemas: Schema = schema["components"]["schemas"]
    return schemas


def _properties(schema: Schema) -> Schema:
    properties: Schema = _schemas(schema)["Input"]["properties"]
    return properties


def _resolved(schema: Schema, field: Schema) -> Schema:
    """Return a field with the type and the choices that it refers to."""
    for reference in field.get("allOf", []):
        field = {**_schemas(schema)[reference["$ref"].rpartition("/")[2]], **field}
    return field


def _read_json(argument: str | None) -> dict[str, Any]:
    """Read `--json FILE|-|TEXT`, and `@FILE` and `@-` as cog writes them."""
    if argument is None:
        return {}
    text = argument
    if not argument.lstrip().startswith("{"):
        place = argument.removeprefix("@")
        try:
            text = sys.stdin.read() if place == "-" else Path(place).expanduser().read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputs(f"--json {argument}: {_reason(error)}") from None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadInputs(f"--json: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadInputs("--json: not an object of names and values")
    return value


def _typed(name: str, field: Schema, texts: list[str]) -> Any:
    if field["type"] == "array":
        return [_value(name, field["items"], text) for text in texts]
    if len(texts) > 1:
        raise BadInputs(f"{name} is given {len(texts)} times, and takes one value")
    return _value(name, field, texts[0])


def _value(name: str, field: Schema, text: str) -> Any:
    """Return the value that a text on the command line means; `@file` for file inputs only, as texts may begin so."""
    kind = field["type"]
    if field.get("format") == "uri":
        return _file(name, text[1:]) if text.startswith("@") else text
    if kind == "integer":
        if not re.fullmatch(r"[+-]?\d+", text.strip()):
            raise BadInputs(f"{name}={text} is not a whole number")
        return int(text)
    if kind == "number":
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise BadInputs(f"{name}={text} is not a number")
        return number
    if kind == "boolean":
        if text.lower() not in ("true", "false"):
            raise BadInputs(f"{name}={text} is neither true nor false")
        return text.lower() == "true"
    return text


def _file(name: str, place: str) -> str:
    path = Path(place).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInputs(f"{name}: {place} cannot be read: {_reason(error)}") from None
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _unknown(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"{name} is not an input{guess} (all: {', '.join(known)})"


def _fault(name: str, value: Any, field: Schema) -> str | None:
    """Tell what the schema says against a value, or None."""
    if "type" not in field:
        return None
    kind = field["type"]
    shown = f"{name}={value!r}" if len(repr(value)) < 80 else name
    if not isinstance(value, PYTHON_TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return f"{shown} is no {kind}"
    if kind == "array":
        return next((fault for item in value if (fault := _fault(name, item, field["items"]))), None)
    if field.get("format") == "uri" and not re.match(r"data:|https?://", value):
        return f"{shown} is no URL; write {name}=@{value} to send a file"
    if "enum" in field and value not in field["enum"]:
        return f"{shown} is none of {', '.join(map(str, field['enum']))}"
    if "minimum" in field and value < field["minimum"]:
        return f"{shown} is less than the minimum of {field['minimum']}"
    if "maximum" in field and value > field["maximum"]:
        return f"{shown} is greater than the maximum of {field['maximum']}"
    if "minLength" in field and len(value) < field["minLength"]:
        return f"{shown} is shorter than {field['minLength']} characters"
    if "maxLength" in field and len(value) > field["maxLength"]:
        return f"{shown} is longer than {field['maxLength']} characters"
    if "pattern" in field and not re.search(field["pattern"], value):
        return f"{shown} does not match {field['pattern']}"
    return None
