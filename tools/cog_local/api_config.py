"""The predictions API's configuration for the models of this repository: names, version ids, schemas, commands."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tree import ROOT, description, documented_name, models
from videokit.files import atomic_write

from cog_local.schema import FILE_NAME, read_schema

DIRECTORY = ROOT / ".predictions"  # of the API: this configuration, its database, its files
# Paths in a model's directory that are not its code.
_IGNORED = re.compile(
    r"(wheels|weights|demo-weights|examples)/.*|(.*/)?(\.|__pycache__/).*|.*\.(md|gif|mp4)|cog-safe-push\.yaml"
)

_DEMO = "The demo weights draw only coloured shapes."


def write_config(weights: str) -> Path:
    """Write the configuration for all models and return its path. Raises SchemaError for one without openapi.json."""
    if weights not in ("demo", "full"):
        weights = str(Path(weights).resolve())
    toml = partial(json.dumps, ensure_ascii=False)  # a JSON string or array is also TOML
    lines = [f"data = {toml(str(DIRECTORY))}"]
    for model in models():
        lines += ["", "[[models]]", *(f"{key} = {toml(value)}" for key, value in _settings(model, weights).items())]
    DIRECTORY.mkdir(exist_ok=True)
    config = DIRECTORY / "config.toml"
    with atomic_write(config) as part:
        part.write_text("\n".join(lines) + "\n", "utf-8")
    return config


def _settings(model: str, weights: str) -> dict[str, Any]:
    name, _, documented = documented_name(model).partition(":")
    read_schema(ROOT / model)  # raises SchemaError
    serve = [sys.executable, str(ROOT / "script" / "serve"), model, "--port", "0", "--weights", weights]
    demo = _DEMO if weights == "demo" and (ROOT / model / "demo-weights").is_dir() else ""
    pages = {"readme": ROOT / model / "README.md", "examples": ROOT / model / "examples"}
    return {
        "name": name,
        "versions": [content_id(model), *filter(None, [documented])],
        "description": f"{description(model)} {demo}".strip(),
        "schema": str(ROOT / model / FILE_NAME),
        **{key: str(path) for key, path in pages.items() if path.exists()},
        "cog_version": importlib.metadata.version("cog"),
        "command": [*serve, "--until-stdin-ends"],
    }


def content_id(model: str) -> str:
    """Return the SHA-256 of a model's directory and of videokit's sources, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for place in (ROOT / model, ROOT / "shared" / "videokit" / "src"):
        for path in sorted(place.rglob("*")):
            name = path.relative_to(place).as_posix()
            if path.is_file() and not _IGNORED.fullmatch(name):
                digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
