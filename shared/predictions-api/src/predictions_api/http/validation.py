"""Check requests to create a prediction. Faults are reported as in Replicate's 422 answers.

jsonschema finds the faults. The texts are those of Go's xeipuuv/gojsonschema (locales.go), which Replicate's known
answers quote. Files are not fetched here, and the model fills in its defaults.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry

from predictions_api.errors import invalid_fields
from predictions_api.run.catalogue import is_file
from predictions_api.store.file_urls import map_strings, strings_in
from predictions_api.store.records import IGNORED_INPUT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from jsonschema.exceptions import ValidationError

_VERSION = "64 hexadecimal digits, owner/name:digits, or owner/name for its newest version"
_PROPERTIES: dict[str, Any] = {
    "input": {"type": "object", "description": "The model's inputs; files as URLs or data: URIs"},
    "webhook": {
        "type": "string",
        "format": "uri",
        "maxLength": 8192,
        "description": "Called when the prediction changes",
    },
    "webhook_events_filter": {
        "description": "Changes to call for, as a list or a string with commas. Default: output, completed",
        "type": "array",
        "maxItems": 16,
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
    "properties": {"version": {"type": "string", "maxLength": 512, "description": _VERSION}, **_PROPERTIES},
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
_OPTIONAL = ("webhook", "webhook_events_filter", "stream")
_MAX_FAULTS = 100  # in one answer
_MAX_IGNORED: Final = 20  # inputs that are named in the logs
_MAX_TEXT: Final = 2**20  # characters of all inputs that are not files
_MAX_FILE_URL: Final = 8192  # characters
_MAX_DATA_HEAD: Final = 1024  # characters of a data: URI before its comma


@dataclass(frozen=True)
class CreateRequest:
    """The body of a request to create a prediction. `version` is None if the path names the model."""

    version: str | None
    input: dict[str, Any]
    webhook: str | None = None
    webhook_events_filter: list[str] | None = None


def check_request(body: object, *, needs_version: bool) -> CreateRequest:
    """Return the request in a body. Raises Problem 422 with all faults.

    `webhook_events_filter` may also be a string with commas, as in older documents of Replicate.
    """
    schema = BY_VERSION_SCHEMA if needs_version else BY_MODEL_SCHEMA
    members = _bounded_members(body, schema["properties"]) if isinstance(body, dict) else body
    _raise_if_any(Draft202012Validator(schema).iter_errors(members), prefix=())
    assert isinstance(body, dict)
    assert isinstance(members, dict)
    events_filter = members.get("webhook_events_filter")
    return CreateRequest(
        version=members.get("version"),
        input=body["input"],
        webhook=members.get("webhook"),
        webhook_events_filter=None if events_filter is None else list(dict.fromkeys(events_filter)),
    )


def _bounded_members(body: dict[str, Any], declared: Collection[str]) -> dict[str, Any]:
    """Return the members of a body that are checked, so short that the check and its messages take no time.

    All limits in the schemas are lower. Objects are emptied: only `input` may be one, and `check_inputs` checks it.
    """
    members = {name: _shorten(body[name]) for name in declared if name in body}
    unknown = (name[:100] for name in body if name not in declared)
    members |= dict.fromkeys(islice(unknown, _MAX_FAULTS))
    for name in _OPTIONAL:
        if name in members and members[name] is None:
            del members[name]
    if isinstance(members.get("webhook_events_filter"), str):
        events = members["webhook_events_filter"].split(",")
        members["webhook_events_filter"] = [event for event in map(str.strip, events) if event]
    return members


def _shorten(value: Any) -> Any:
    if isinstance(value, str):
        return value[:10_000]
    if isinstance(value, list):
        return [_shorten(item) for item in value[:100]]
    return {} if isinstance(value, dict) else value


def check_inputs(openapi_schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs for a model. Raises Problem 422 with all faults.

    Unknown inputs are dropped, as at Replicate. Optional inputs that are null are dropped, too, as Cog refuses null.
    """
    declared = openapi_schema["components"]["schemas"]["Input"]
    properties, required = declared.get("properties", {}), declared.get("required", [])
    known_inputs = {
        name: value for name, value in inputs.items() if name in properties and (value is not None or name in required)
    }
    files = {name: map_strings(known_inputs[name], _without_data) for name in known_inputs if is_file(properties[name])}
    _check_lengths({name: value for name, value in known_inputs.items() if name not in files})
    # References start at the root of the document. The empty registry prevents fetching other documents.
    schema = {**openapi_schema, "$ref": "#/components/schemas/Input"}
    validator = Draft202012Validator(schema, registry=Registry(), format_checker=_FORMATS)
    _raise_if_any(validator.iter_errors({**known_inputs, **files}), prefix=("input",))
    return known_inputs


def describe_ignored_inputs(openapi_schema: Mapping[str, Any], model: str, inputs: Mapping[str, Any]) -> str:
    """Return log lines that name the inputs which the model does not have, each with the nearest one of the model."""
    known = openapi_schema["components"]["schemas"]["Input"].get("properties", {})
    lines = []
    for name in islice((name for name in inputs if name not in known), _MAX_IGNORED):
        nearest = get_close_matches(name[:100], known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        lines.append(f"{IGNORED_INPUT}{json.dumps(name[:100])}, which {model} does not have{hint}\n")
    return "".join(lines)


def _check_lengths(texts: Mapping[str, Any]) -> None:
    """Raise Problem 422 if the texts are so long together that checking and storing them would delay others."""
    lengths = {name: sum(map(len, strings_in(value))) for name, value in texts.items()}
    if sum(lengths.values()) > _MAX_TEXT:
        longest = max(lengths, key=lambda name: lengths[name])
        text = f"String length must be less than or equal to {_MAX_TEXT} for all texts together"
        raise invalid_fields([{"type": "string_lte", "field": f"input.{longest}", "description": text}])


def _without_data(text: str) -> str:
    """Return a file's URL, or its data: URI without the data, which needs no check here."""
    if text[:5].lower() == "data:":
        return text[: text.find(",", 0, _MAX_DATA_HEAD) + 1]
    return text[:_MAX_FILE_URL]


@_FORMATS.checks("uri")
def _is_file_uri(value: object) -> bool:
    """Return whether a string is a file for Cog: an http(s) URL or a data: URI."""
    if not isinstance(value, str):
        return True  # reported as a wrong type
    try:
        is_url = len(value) < _MAX_FILE_URL and urlsplit(value).hostname and re.match(r"https?://", value)
        return bool(re.match(r"data:[^,]*,", value) or is_url)
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
