"""The documentation page: one HTML page without scripts, rendered from the OpenAPI document."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code { font: 14px ui-monospace, monospace; } h2 code { font-size: 17px; } h2 { margin: 2rem 0 0; font-weight: 500; }
table { border-collapse: collapse; } td { padding: .15rem 1.5rem .15rem 0; vertical-align: top; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8bf; } }
"""


def render_page(document: Mapping[str, Any]) -> str:
    info, url = document["info"], document["servers"][0]["url"] + "/openapi.json"
    sections = [
        _section(method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>"
        f'<p>OpenAPI document: <a href="{escape(url)}">{escape(url)}</a></p>{"".join(sections)}</html>'
    )


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{escape(location)}<td>{escape(text)}"
        for name, location, text in _inputs(operation)
    )
    return f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>" + (
        f"<table>{rows}</table>" if rows else ""
    )


def _inputs(operation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for parameter in operation.get("parameters", []):
        yield parameter["name"], parameter["in"], parameter.get("description", "")
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content.get("schema", {})
        for name, member in schema.get("properties", {}).items():
            location = "body, required" if name in schema.get("required", []) else "body"
            yield name, location, member.get("description", "")
