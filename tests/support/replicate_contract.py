"""Answers against Replicate's own OpenAPI document, which lies beside the tests of the predictions API.

The document is https://api.replicate.com/openapi.json as tryAGI/Replicate keeps it, commit 6c8ab8e (2026-04-09). Where
the documents contradict each other or themselves, this is what is held here, and why:

* It is OpenAPI 3.1, yet marks what may be null with 3.0's `nullable`: read as meant.
* POST answers 201 (this document, and every recorded call), not 200 as the widdershins pages of the models say, which
  also show a string or an array for the body: it is the prediction.
* `webhook_events_filter` is a list; those pages type it as a string, so a string with commas is taken as well.
* One reseller's page lists `created` and `data` as the answer's members, and shows a prediction below: that it is.
* A wait whose time is up is answered `starting`, as this document says, not `processing` as the guide says: the
  official clients take anything else for an end.
* Files have `name` and `etag` besides what stands here: the official Python client refuses a file without them.
* It gives bodies for no error but those of files: RFC 7807's members are asked of all, as they were recorded.
* A deadline before the start ends in `aborted`, but the official 1.x clients, which know no such status, are told
  `canceled`.
"""

from __future__ import annotations

import json
import re
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
OTHERS = re.compile(r"/?$|/(delivery|streams|files/stream-|docs|health|metrics|openapi\.json)")


@FORMATS.checks("uri")
def _is_absolute(value: object) -> bool:
    return not isinstance(value, str) or all(urlsplit(value)[:2])


@FORMATS.checks("date-time", raises=ValueError)
def _is_rfc3339(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def check_answer(method: str, url: str, status: int, content_type: str, body: bytes) -> None:
    """Fail unless an answer is one that Replicate's document has for this operation, or an RFC 7807 problem."""
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


def checks(url: str) -> bool:
    """Tell whether Replicate's document would have a URL; files, streams and the server's own pages are elsewhere."""
    parts = urlsplit(url)
    return parts.scheme != "data" and not OTHERS.match(PREFIX.sub("", parts.path))


def check_response(response: httpx.Response) -> None:
    """Check an answer; a hook for a client."""
    if checks(str(response.url)):
        kind = response.headers.get("content-type", "")
        check_answer(response.request.method, str(response.url), response.status_code, kind, response.read())


async def check_response_async(response: httpx.Response) -> None:
    """Check an answer; a hook for an asynchronous client."""
    if checks(str(response.url)):
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
    whole = {**json.loads(schema), "components": _document()["components"]}
    return jsonschema.Draft202012Validator(whole, format_checker=FORMATS)


def _with_null(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {name: _with_null(value) for name, value in node.items()}
    if found.get("nullable") is True and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    return found
