"""Check requests to create a prediction. Faults are reported as in Replicate's 422 answers.

jsonschema finds the faults. The texts are those of Go's xeipuuv/gojsonschema (locales.go), which Replicate's known
answers quote. Files are not fetched here, and the model fills in its defaults.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry

from predictions_api.errors import Problem, invalid_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from jsonschema.exceptions import ValidationError

MAX_DEPTH: Final = 64  # levels of JSON, far above any model's input; deep nesting could exhaust the stack

_VERSION = "64 hexadecimal digits, owner/name:digits, or owner/name for its newest version"
_PROPERTIES: dict[str, Any] = {
    "input": {"type": "object", "description": "The model's inputs; files as URLs or data: URIs"},
    "webhook": {"type": "string", "format": "uri", "description": "Called when the prediction changes"},
    "webhook_events_filter": {
        "description": "Changes to call for, as a list or a string with commas. Default: output, completed",
        "type": "array",
        "items": {"type": "string", "enum": ["start", "output", "logs", "completed"]},
    },
    "stream": {"type": "boolean", "deprecated": True, "description": "Ignored: urls.stream is always returned"},
}
BY_MODEL_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": _PROPERTIES,
    "required": ["input"],
    "additionalProperties": False,
}
BY_VERSION_SCHEMA: Final[dict[str, Any]] = {
    **BY_MODEL_SCHEMA,
    "properties": {"version": {"type": "string", "description": _VERSION}, **_PROPERTIES},
    "required": ["version", "input"],
}

_MESSAGES = {  # keyword in jsonschema -> (type, text) in gojsonschema
    "anyOf": ("number_any_of", "Must validate at least one schema (anyOf)"),
    "format": ("format", "Does not match format '{}'"),
    "maximum": ("number_lte", "Must be less than or equal to {}"),
    "maxItems": ("array_max_items", "Array must have at most {} items"),
    "maxLength": ("string_lte", "String length must be less than or equal to {}"),
    "minimum": ("number_gte", "Must be greater than or equal to {}"),
    "minItems": ("array_min_items", "Array must have at least {} items"),
    "minLength": ("string_gte", "String length must be greater than or equal to {}"),
    "pattern": ("pattern", "Does not match pattern '{}'"),
}
_FORMATS = FormatChecker(formats=())
_MAX_FAULTS = 100  # in one answer
_MAX_EXACT_INTEGER = 2**53  # a float holds every whole number up to here exactly


@dataclass(frozen=True)
class CreateRequest:
    """The body of a request to create a prediction. `version` is None if the path names the model."""

    version: str | None
    input: dict[str, Any]
    webhook: str | None = None
    webhook_events_filter: list[str] | None = None


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON body. Raises Problem 400 for invalid bodies.

    Invalid are also other encodings than UTF-8, NaN, numbers too large for a float, lone surrogates, and more than 64
    levels. JSON does not distinguish integers from floats, so 4.0 becomes the int 4.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_number, parse_float=_number)
        if _is_deep(value):
            raise RecursionError
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise _malformed_json(f"it has more than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise _malformed_json(str(error)) from None
    return value


def _number(text: str) -> float | int:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return int(number) if number.is_integer() and abs(number) <= _MAX_EXACT_INTEGER else number


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return bool(level)


def _malformed_json(reason: str) -> Problem:
    return Problem(400, f"The request body is not valid JSON: {reason}", title="Malformed request")


def check_request(body: object, *, needs_version: bool) -> CreateRequest:
    """Return the request in a body. Raises Problem 422 with all faults.

    `webhook_events_filter` may also be a string with commas, as in older documents of Replicate.
    """
    if isinstance(body, dict) and isinstance(body.get("webhook_events_filter"), str):
        events = [event.strip() for event in body["webhook_events_filter"].split(",")]
        body = {**body, "webhook_events_filter": [event for event in events if event]}
    schema = BY_VERSION_SCHEMA if needs_version else BY_MODEL_SCHEMA
    _raise_if_any(Draft202012Validator(schema).iter_errors(body), prefix=())
    assert isinstance(body, dict)
    events_filter = body.get("webhook_events_filter")
    return CreateRequest(
        version=body.get("version"),
        input=body["input"],
        webhook=body.get("webhook"),
        webhook_events_filter=None if events_filter is None else list(dict.fromkeys(events_filter)),
    )


def check_inputs(openapi_schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs for a model. Raises Problem 422 with all faults.

    Unknown inputs are dropped, as at Replicate. Optional inputs that are null are dropped, too, as Cog refuses null.
    """
    declared = openapi_schema["components"]["schemas"]["Input"]
    properties, required = declared.get("properties", {}), declared.get("required", [])
    known_inputs = {
        name: value for name, value in inputs.items() if name in properties and (value is not None or name in required)
    }
    # References start at the root of the document. The empty registry prevents fetching other documents.
    schema = {**openapi_schema, "$ref": "#/components/schemas/Input"}
    validator = Draft202012Validator(schema, registry=Registry(), format_checker=_FORMATS)
    _raise_if_any(validator.iter_errors(known_inputs), prefix=("input",))
    return known_inputs


@_FORMATS.checks("uri")
def _is_file(value: object) -> bool:
    """Return whether a string is a file for Cog: an http(s) URL or a data: URI."""
    if not isinstance(value, str):
        return True  # reported as a wrong type
    try:
        return bool(re.match(r"data:[^,]*,", value) or (urlsplit(value).hostname and re.match(r"https?://", value)))
    except ValueError:
        return False


def _raise_if_any(errors: Iterable[ValidationError], *, prefix: tuple[str, ...]) -> None:
    ordered = sorted(islice(errors, _MAX_FAULTS), key=lambda error: len(error.path))  # objects before their members
    faults = [fault for error in ordered for fault in _faults(error, prefix)][:_MAX_FAULTS]
    if faults:
        raise invalid_fields(faults)


def _faults(error: ValidationError, prefix: tuple[str, ...]) -> Iterator[dict[str, str]]:
    path = [str(part) for part in error.path]
    field = ".".join([*prefix, *path])
    rule = str(error.validator)
    value: Any = error.instance
    limit: Any = error.validator_value
    if rule == "required":
        missing = next(name for name in limit if error.message.startswith(f"{name!r} "))
        yield {"type": "required", "field": field, "description": f"{missing} is required"}
    elif rule == "additionalProperties":
        declared: Any = error.schema
        for name in sorted(set(value) - set(declared["properties"])):
            text = f"Additional property {name[:100]} is not allowed"
            yield {"type": "additional_property_not_allowed", "field": field, "description": text}
    elif rule == "enum":
        allowed = ", ".join(json.dumps(choice, ensure_ascii=False) for choice in limit)
        text = f"{'.'.join(path)} must be one of the following: {allowed}"
        yield {"type": "enum", "field": field, "description": text}
    elif rule == "type":
        expected = limit if isinstance(limit, str) else f"[{','.join(limit)}]"
        text = f"Invalid type. Expected: {expected}, given: {_json_type(value)}"
        yield {"type": "invalid_type", "field": field, "description": text}
    else:
        kind, text = _MESSAGES.get(rule, (rule, error.message[:500]))
        limit_text = limit if isinstance(limit, str) else json.dumps(limit)
        yield {"type": kind, "field": field, "description": text.replace("{}", limit_text)}


def _json_type(value: Any) -> str:
    """Return the JSON type of a value. bool comes before int, as it is a subclass of int."""
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "null")
