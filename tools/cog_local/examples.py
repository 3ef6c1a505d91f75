"""The examples of a model: predictions as JSON and their files, which the demo weights make through Cog's own server.

The `input` of `MODEL/examples/NAME.json` is written by hand, and the rest by `write_examples`. An input that is a file
has the name of a file in the same directory.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import yaml
from tree import ROOT, documented_name
from videokit.files import atomic_write

from cog_local.inputs import read_inputs
from cog_local.predict import check_status, write_outputs
from cog_local.schema import read_schema
from cog_local.server import CogServer

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = "examples"
SAFE_PUSH = "cog-safe-push.yaml"
TIME = "2026-01-01T00:00:00.000000Z"  # of all examples, so that each run writes the same file
METRICS = ("seed", "frames", "duration")  # the others are times
HARDWARE = "gpu-l40s"  # of the model on which cog-safe-push tests
TIMEOUT = 1800  # seconds; the first prediction fetches the real weights
SAFE_PUSH_HEADER = """\
# Written by script/examples. Test cases of cog-safe-push.
# Source of the keys: replicate/cog-safe-push@2ea3b29, cog_safe_push/config.py.
# Its lint.py requires `predict:` in cog.yaml, and here it is `run:`, so that commit stops before a push.
# yamllint disable rule:line-length rule:indentation
"""


def example_paths(model_dir: Path) -> list[Path]:
    """Return the JSON files of a model's examples, those without a file as input first."""
    paths = sorted((model_dir / DIRECTORY).glob("*.json"))
    return sorted(paths, key=lambda path: bool(file_inputs(model_dir, read_input(path))))


def read_input(path: Path) -> dict[str, Any]:
    """Return the inputs of an example. Files have the names of files in its directory."""
    inputs: dict[str, Any] = json.loads(path.read_text("utf-8"))["input"]
    return inputs


def file_inputs(model_dir: Path, inputs: dict[str, Any]) -> set[str]:
    """Return the names of the inputs that are files."""
    declared = read_schema(model_dir)["components"]["schemas"]["Input"]["properties"]
    return {name for name in inputs if declared.get(name, {}).get("format") == "uri"}


def request_inputs(model_dir: Path, path: Path) -> dict[str, Any]:
    """Return the inputs for a server, with data URIs for files. Raises InvalidInputs."""
    inputs = read_input(path)
    files = file_inputs(model_dir, inputs)
    pairs = [f"{name}=@{path.parent / inputs[name]}" for name in files]
    others = {name: value for name, value in inputs.items() if name not in files}
    return read_inputs(read_schema(model_dir), pairs, json.dumps(others))


def make_example(server: CogServer, path: Path, target: Path) -> dict[str, Any]:
    """Make the files of an example in the directory `target`, and return its prediction in Replicate's format.

    The output has the names of the files. Raises InvalidInputs and PredictionFailed.
    """
    answer = server.predict(request_inputs(server.model_dir, path))
    check_status(answer)
    names = [file.name for file in write_outputs(answer["output"], target / path.stem, None)]
    model, _, version = documented_name(server.model_dir.name).partition(":")
    digest = hashlib.sha256(f"{model} {path.stem}".encode()).digest()
    return {
        "id": base64.b32encode(digest).decode().lower()[:26],
        "model": model,
        "version": version or "hidden",
        "input": read_input(path),
        "logs": "",
        "output": names if isinstance(answer["output"], list) else names[0],
        "data_removed": False,
        "error": None,
        "source": "api",
        "status": "succeeded",
        "created_at": TIME,
        "started_at": TIME,
        "completed_at": TIME,
        "metrics": {name: answer["metrics"][name] for name in METRICS},
    }


def write_examples(model: str) -> list[Path]:
    """Write the examples of a model and its test cases for cog-safe-push, and return the paths of all files.

    Raises SchemaError, ServerError, InvalidInputs, PredictionFailed, and FileNotFoundError for no example.
    """
    model_dir = ROOT / model
    if not example_paths(model_dir):
        raise FileNotFoundError(f'{DIRECTORY}/ has no NAME.json; write {{"input": {{...}}}} to one')
    with CogServer(model_dir) as server:
        for path in example_paths(model_dir):
            prediction = make_example(server, path, path.parent)
            _write(path, json.dumps(prediction, indent=2, ensure_ascii=False) + "\n")
    _write(model_dir / SAFE_PUSH, safe_push_config(model_dir))
    return [*sorted((model_dir / DIRECTORY).iterdir()), model_dir / SAFE_PUSH]


def safe_push_config(model_dir: Path) -> str:
    """Return the text of cog-safe-push.yaml, whose test cases are the examples."""
    cases = []
    for path in example_paths(model_dir):
        output = json.loads(path.read_text("utf-8"))["output"]
        (kind,) = {name.rpartition(".")[2] for name in ([output] if isinstance(output, str) else output)}
        description = f"{kind.upper()} with {path.stem.replace('-', ' ')}"
        cases.append({"inputs": request_inputs(model_dir, path), "match_prompt": description})
    config = {
        "model": documented_name(model_dir.name).partition(":")[0],
        "test_hardware": HARDWARE,
        "predict": {"predict_timeout": TIMEOUT, "test_cases": cases},
    }
    return SAFE_PUSH_HEADER + yaml.safe_dump(config, sort_keys=False, width=1_000_000, allow_unicode=True)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, "utf-8")
