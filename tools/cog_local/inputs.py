"""The inputs of a prediction, from the arguments of `cog predict`: `-i name=value`, `-i name=@file` and `--json`.

Inputs are checked against the model's schema before a server starts. Cog's server makes the same checks, but drops
unknown names silently.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import mimetypes
import re
import sys
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jsonschema import Draft6Validator, FormatChecker
from tree import suggestion
from videokit.checks import check_text, check_whole, shown, whole_number

from cog_local.usage import declared_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cog_local.schema import Schema

_FORMATS = FormatChecker(formats=())
_LENGTHS = {"minLength": "shorter", "maxLength": "longer"}


class InvalidInputs(Exception):
    """Inputs that cannot be read or do not match the schema. `faults` has one line for each fault."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def read_inputs(
    schema: Schema, pairs: list[str], json_argument: str | None = None, stored: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the inputs for the server from the arguments of `-i` and `--json`. For a name in both, `-i` wins.

    `schema` is a whole OpenAPI document. `stored` are the inputs of a file that is made again, over which both win; a
    file among them is stored as its SHA-256, and has to be given again. Raises InvalidInputs with all faults.
    """
    schemas = schema["components"]["schemas"]
    fields = declared_inputs(schema)
    stored = stored or {}
    files = {name: value for name, value in stored.items() if fields.get(name, {}).get("format") == "uri" and value}
    inputs: dict[str, Any] = {name: value for name, value in stored.items() if name not in files}
    faults: list[str] = []
    try:
        inputs.update(_read_json(json_argument))
    except InvalidInputs as error:
        faults += error.faults
    texts: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if equals:
            texts.setdefault(name.strip(), []).append(text)
        else:
            faults.append(f"-i {pair}: write name=value, or name=@file")
    for name, values in texts.items():
        try:
            inputs[name] = _parse(name, fields[name], values) if name in fields else values
        except InvalidInputs as error:
            faults += error.faults
            inputs.pop(name, None)
    faults += [
        fault
        for name, digest in files.items()
        if (name in inputs or name not in texts) and (fault := _stored_file_fault(name, digest, inputs)) is not None
    ]
    faults += [f"{name} is required" for name in schemas["Input"].get("required", []) if name not in {*inputs, *texts}]
    for name, value in list(inputs.items()):
        if name not in fields:
            faults.append(f"{name} is not an input{suggestion(name, fields)} (all: {', '.join(fields)})")
        elif value is None and "nullable" in fields[name]:
            del inputs[name]  # the server refuses null, and accepts a missing name
        else:
            inputs[name] = whole_number(value) if fields[name].get("type") == "integer" else value
            faults += _faults(name, inputs[name], fields[name])
    if faults:
        raise InvalidInputs(*faults)
    return inputs


def _read_json(argument: str | None) -> dict[str, Any]:
    """Read `--json FILE|-|TEXT`, and cog's spellings `@FILE` and `@-`."""
    if argument is None:
        return {}
    text = argument
    path = argument.removeprefix("@")
    try:
        if not argument.lstrip().startswith(("{", "[")):
            text = sys.stdin.read() if path == "-" else Path(path).expanduser().read_text("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant)
    except OSError as error:
        raise InvalidInputs(f"--json {argument}: {_reason(error)}") from None
    except RecursionError:
        raise InvalidInputs("--json: nested too deeply") from None
    except ValueError as error:
        raise InvalidInputs(f"--json: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInputs("--json: not an object of names and values")
    return value


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN, Infinity and -Infinity, which Python reads although JSON does not have them."""
    raise InvalidInputs(f"--json: not JSON: {name} is not a number of JSON")


def _parse(name: str, field: Schema, texts: list[str]) -> Any:
    if field["type"] == "array":
        return [_parse_value(name, field["items"], text) for text in texts]
    if len(texts) > 1:
        raise InvalidInputs(f"{name} is given {len(texts)} times, and takes one value")
    return _parse_value(name, field, texts[0])


def _parse_value(name: str, field: Schema, text: str) -> Any:
    """Return the value of a text from the command line. Only inputs that take a file read `@file`."""
    kind = field["type"]
    if field.get("format") == "uri":
        return _data_uri(name, text[1:]) if text.startswith("@") else text
    if kind == "integer":
        if not re.fullmatch(r"[+-]?\d+(\.0*)?", text.strip()):
            raise InvalidInputs(f"{name}={text} is not a whole number")
        return _integer(name, text.partition(".")[0])
    if kind == "number":
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise InvalidInputs(f"{name}={text} is not a number")
        return number
    if kind == "boolean":
        if text.lower() not in ("true", "false"):
            raise InvalidInputs(f"{name}={text} is neither true nor false")
        return text.lower() == "true"
    return text


def _integer(name: str, digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python reads at most 4,300 digits
        raise InvalidInputs(f"{name} has {len(digits)} digits") from None


def _data_uri(name: str, file: str) -> str:
    path = Path(file).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInputs(f"{name}: {file} cannot be read: {_reason(error)}") from None
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def decode_data_uri(uri: str) -> tuple[str, bytes]:
    """Return the media type and the content of a data URI."""
    header, _, content = uri.partition(",")
    kind, *options = header.removeprefix("data:").split(";")
    decode = base64.b64decode if "base64" in options else urllib.parse.unquote_to_bytes
    return kind, decode(content)


def _stored_file_fault(name: str, digest: str, inputs: Mapping[str, Any]) -> str | None:
    """Return what is wrong with an input that replaces the file with a stored SHA-256, or None."""
    if name not in inputs:
        return f"{name} was a file ({digest}); give it again: -i {name}=@FILE"
    value = inputs[name]
    if not isinstance(value, str) or not value.startswith("data:"):
        return None
    found = f"sha256:{hashlib.sha256(decode_data_uri(value)[1]).hexdigest()}"
    return None if found == digest else f"{name} is another file ({found}) than before ({digest}); give that one"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _faults(name: str, value: Any, field: Schema) -> Iterator[str]:
    """Yield what is wrong with a value. In JSON Schema since draft 6, 5.0 is an integer."""
    if isinstance(value, float) and not math.isfinite(value):  # 1e400
        yield f"{name}={value} is not a number of JSON"
        return
    fault = None
    if isinstance(value, str):
        fault = check_text(name, value)  # the server cannot read it
    elif isinstance(value, float) and field.get("type") == "integer":
        fault = check_whole(name, value)
    if fault is not None:
        yield fault
        return
    for error in Draft6Validator(field, format_checker=_FORMATS).iter_errors(value):
        given = repr(error.instance)
        text = error.message.removeprefix(given).strip()
        if error.validator in _LENGTHS:
            text = f"is {_LENGTHS[error.validator]} than {error.validator_value} characters"
        elif error.validator == "format":
            text = f"is not a URL; write {name}=@{shown(error.instance)} to send a file"
        elif error.validator == "enum" and str(error.instance).endswith((".safetensors", ".ckpt")):
            text += "; store a file of yours under one of these names in DIR/checkpoints/, and give --weights DIR"
        yield f"{name}={given} {text}" if len(given) < 80 else f"{name} {text}"


@_FORMATS.checks("uri")
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or re.match(r"data:|https?://", value) is not None
