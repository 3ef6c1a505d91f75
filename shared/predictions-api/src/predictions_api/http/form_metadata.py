"""Read the metadata of an upload from a form: one part `metadata` in JSON, or parts named `metadata[a]`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from predictions_api.errors import Problem
from predictions_api.http.requests import parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SIZE: Final = 2**16  # bytes
MAX_PARTS: Final = 128
MAX_DEPTH: Final = 16
_NAME: Final = re.compile(r"metadata((?:\[[^\[\]]*\])+)")


def read_metadata(text: bytes, parts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the metadata of an upload.

    `text` is the part `metadata`, or empty. `parts` are the names and values of all parts that are fields. The Python
    client 2.x sends {"a": {"b": 1}, "c": [2]} as `metadata[a][b]` and `metadata[c][]`, whose values are texts.
    Raises Problem 400 for invalid JSON, other values than an object, and names that contradict each other.
    """
    metadata = parse_json(text or b"{}", "The part metadata")
    if not isinstance(metadata, dict):
        raise Problem(400, "The part metadata is not a JSON object; send one of at most 64 KiB")
    named = [(match, value) for name, value in parts if (match := _NAME.fullmatch(name))]
    if sum(len(match[0]) + len(value) for match, value in named) > MAX_SIZE:
        raise Problem(400, "The parts metadata[...] have more than 64 KiB together; send less")
    for match, value in named:
        keys = re.findall(r"\[(.*?)\]", match[1])
        if len(keys) > MAX_DEPTH or not _insert(metadata, keys, value):
            raise Problem(400, f"The part {match[0][:64]!r} cannot be used; send metadata as one part with JSON")
    return metadata


def _insert(metadata: dict[str, Any], keys: Sequence[str], value: str) -> bool:
    """Set a value within nested objects, or append it if the last key is empty. Return whether that was possible."""
    *outer, last = keys if keys[-1] else keys[:-1] or [""]
    place: Any = metadata
    for key in outer:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            return False
    if "" in (*outer, last):
        return False
    if keys[-1]:
        is_new = last not in place
        place.setdefault(last, value)
        return is_new
    values = place.setdefault(last, [])
    if isinstance(values, list):
        values.append(value)
    return isinstance(values, list)
