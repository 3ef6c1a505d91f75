"""Checks of answers against Replicate's OpenAPI document, tests/predictions_api/replicate-openapi.json.

The document is https://api.replicate.com/openapi.json from tryAGI/Replicate, commit 6c8ab8e (2026-04-09). Where the
published documents contradict each other, the tests require the following:

* `nullable`: the document is OpenAPI 3.1 and marks nullable members with 3.0's `nullable`, which is read as meant.
* POST answers 201, as in this document and in every recorded call. The widdershins pages of the models have 200. The
  pages also show a string or an array as the body. The body is the prediction.
* `webhook_events_filter` is a list. The pages of the models have a string, so a comma-separated string is accepted too.
* The answer is the prediction. One reseller's page lists the members `created` and `data`, but its example is a
  prediction.
* When a wait times out, the status is `starting`, as in this document. The guide has `processing`, which the official
  clients read as the end of the prediction.
* Files also have `name` and `etag`, because the official Python client refuses a file without them.
* Every error has the members of RFC 7807, as in recorded answers. The document has error bodies for files only.
* A deadline before the start ends a prediction as `aborted`. The official 1.x clients do not know this status, and
  get `canceled`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx
import jsonschema
from tree import ROOT

DOCUMENT = ROOT / "tests" / "predictions_api" / "replicate-openapi.json"
FORMATS = jsonschema.FormatChecker(formats=())
PREFIX = re.compile(r"^(/replicate)?/v1")
UNDOCUMENTED = re.compile(
    r"/?$|/(delivery|streams|files/stream-|docs|health|metrics|openapi\.json|models/[^/]+/[^/]+/examples/.)"
)


@FORMATS.checks("uri")
def _is_absolute(value: object) -> bool:
    return not isinstance(value, str) or all(urlsplit(value)[:2])


@FORMATS.checks("date-time", raises=ValueError)
def _is_rfc3339(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def check_answer(method: str, url: str, status: int, content_type: str, body: bytes) -> None:
    """Check that an answer matches Replicate's document, or is an RFC 7807 problem if its status is 400 or more."""
    kind = content_type.partition(";")[0]
    if status >= 400:
        problem = json.loads(body)
        assert kind == "application/problem+json"
        assert isinstance(problem["detail"], str)
        assert problem["status"] == status
        return
    operation = _operation(method, PREFIX.sub("", urlsplit(url).path))
    assert str(status) in operation["responses"], f"{method} {url}: {status} is not documented"
    content = operation["responses"][str(status)].get("content")
    if content is None:
        assert body == b""
        return
    assert kind in content, f"{method} {url}: {content_type} is not documented"
    if kind == "application/json":
        _validator(json.dumps(content[kind]["schema"])).validate(json.loads(body))


def check_answers(answers: Iterable[Mapping[str, Any]]) -> int:
    """Check the answers that a program has printed. Return how many of them Replicate's document covers."""
    documented = [answer for answer in answers if is_documented(answer["url"])]
    for answer in documented:
        check_answer(answer["method"], answer["url"], answer["status"], answer["type"], answer["body"].encode())
    return len(documented)


def is_documented(url: str) -> bool:
    """Return whether Replicate's document covers a URL: not those of files, streams and the server's own pages."""
    parts = urlsplit(url)
    return parts.scheme != "data" and not UNDOCUMENTED.match(PREFIX.sub("", parts.path))


def check_response(response: httpx.Response) -> None:
    """Check an answer. It is a response hook of httpx.Client."""
    if is_documented(str(response.url)):
        kind = response.headers.get("content-type", "")
        check_answer(response.request.method, str(response.url), response.status_code, kind, response.read())


async def check_response_async(response: httpx.Response) -> None:
    """Check an answer. It is a response hook of httpx.AsyncClient."""
    if is_documented(str(response.url)):
        await response.aread()
        check_response(response)


def _operation(method: str, path: str) -> dict[str, Any]:
    for template, operations in _document()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) and method.lower() in operations:
            operation: dict[str, Any] = operations[method.lower()]
            return operation
    raise AssertionError(f"Replicate's document has no {method} {path}")


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = _with_null(json.loads(DOCUMENT.read_text()))
    return document


@cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    schema_with_components = {**json.loads(schema), "components": _document()["components"]}
    return jsonschema.Draft202012Validator(schema_with_components, format_checker=FORMATS)


def _with_null(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {name: _with_null(value) for name, value in node.items()}
    if result.get("nullable") is True and isinstance(result.get("type"), str):
        result["type"] = [result["type"], "null"]
    return result
