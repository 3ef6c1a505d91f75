"""The predictions API's configuration for the models of this tree: their names, version ids, schemas and commands."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from tree import ROOT, models

from cog_local.schema import openapi_schema

DIRECTORY = ROOT / ".predictions"  # what the API keeps: this configuration, its records, the files
# In a model's directory, but not what makes the model: what is made there, weights, and what is there to be read.
_MADE = {"wheels", "weights", "demo-weights", "__pycache__"}  # and all that begins with a dot
_READ = {".md", ".gif", ".mp4"}


def write_config(weights: str) -> Path:
    """Write the configuration with all models of the tree; raises SchemaError for one that Cog would misread."""
    if weights not in ("demo", "full"):
        weights = str(Path(weights).resolve())
    lines = [f"data = {_toml(str(DIRECTORY))}"]
    for model in models():
        lines += ["", "[[models]]", *(f"{key} = {_toml(value)}" for key, value in _settings(model, weights).items())]
    config = DIRECTORY / "config.toml"
    _write(config, "\n".join(lines) + "\n")
    return config


def _settings(model: str, weights: str) -> dict[str, Any]:
    name, _, documented = published(model).partition(":")
    schema = DIRECTORY / "schemas" / f"{model}.json"
    _write(schema, json.dumps(openapi_schema(ROOT / model / "predict.py"), indent=1) + "\n")
    serve = [sys.executable, str(ROOT / "script" / "serve"), model, "--port", "0", "--weights", weights]
    return {
        "name": name,
        "versions": [content_id(model), *filter(None, [documented])],
        "description": _description(model),
        "schema": str(schema),
        "cog_version": importlib.metadata.version("cog"),
        "command": [*serve, "--until-stdin-ends"],
    }


def published(model: str) -> str:
    """Return owner/name:version under which a model is documented, or local/MODEL for one that is not."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    return str(tools["serve"]["documented"].get(model, f"local/{model}"))


def content_id(model: str) -> str:
    """Return 64 hexadecimal digits made of what makes the model: its directory, and videokit's sources."""
    digest = hashlib.sha256()
    for place in (ROOT / model, ROOT / "shared" / "videokit" / "src"):
        for path in sorted(place.rglob("*")):
            inside = path.relative_to(place)
            if path.is_file() and path.suffix not in _READ and not any(map(_is_made, inside.parts)):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{inside.as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _is_made(part: str) -> bool:
    return part in _MADE or part.startswith(".")


def _description(model: str) -> str:
    """Return the first line of the model's README after its title."""
    readme = ROOT / model / "README.md"
    lines = readme.read_text("utf-8").splitlines()[1:] if readme.exists() else []
    return next(filter(None, lines), "")


def _toml(value: str | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON's strings and arrays are TOML's


def _write(path: Path, text: str) -> None:
    """Write a file whole; leave one of the same text untouched, whose time says since when it is so."""
    if path.exists() and path.read_text("utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, "utf-8")
    part.replace(path)
