"""Specification of cog_local.api_config: the models under their documented names, and what a version id depends on."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from tree import documented_name

# From the API pages that the models reproduce.
DOCUMENTED = {
    "animate-diff": "lucataco/animate-diff:beecf59c4aee8d81bf04f0381033dfa10dc16e845b4ae00d281e2fa377e48a9f",
    "sd-animation": "andreasjansson/stable-diffusion-animation:"
    "ca1f5e306e5721e19c473e0d094e6603f0456fe759c10715fcd6c1b79242d4a5",
    "zeroscope": "anotherjesse/zeroscope-v2-xl:9f747673945c62801b13b84701c783929c0ee784e4748ec062204894dda1a351",
}


def evaluate(repository: Path, expression: str) -> str:
    """Return what an expression of api_config gives in another repository."""
    command = [sys.executable, "-c", f"from cog_local.api_config import *; print({expression})"]
    return subprocess.check_output(command, cwd=repository / "tools", text=True).strip()


def test_the_models_have_the_names_and_version_ids_of_their_documents() -> None:
    assert {model: documented_name(model) for model in DOCUMENTED} == DOCUMENTED


def test_the_configuration_lists_all_models_with_their_schemas_and_one_version(repository: Path) -> None:
    config = tomllib.loads(Path(evaluate(repository, "write_config('demo')")).read_text())
    assert [model["name"] for model in config["models"]] == ["local/one-file", "local/several-files"]
    assert all("demo weights" not in model["description"] for model in config["models"])  # they have none
    for model, directory in zip(config["models"], ["one-file", "several-files"], strict=True):
        assert model["schema"] == str(repository / directory / "openapi.json")
        assert [len(version) for version in model["versions"]] == [64]


def test_a_description_names_demo_weights_if_they_are_served(changed_repository: Path) -> None:
    (changed_repository / "one-file" / "demo-weights").mkdir()
    for weights in ("demo", "full"):
        config = tomllib.loads(Path(evaluate(changed_repository, f"write_config('{weights}')")).read_text())
        assert ("demo weights" in config["models"][0]["description"]) == (weights == "demo")


def test_a_version_id_changes_only_with_the_code_of_its_model(changed_repository: Path) -> None:
    before = evaluate(changed_repository, "content_id('one-file')")
    model = changed_repository / "one-file"
    for directory in (".cog", ".ruff_cache", "weights", "demo-weights"):
        (model / directory).mkdir()
        (model / directory / "file.json").write_text("{}")
    (model / "README.md").write_text("words")
    (changed_repository / "several-files" / "more.py").write_text("")
    assert evaluate(changed_repository, "content_id('one-file')") == before
    ids = {before}
    for path in (model / "predict.py", changed_repository / "shared/videokit/src/videokit/weights/store.py"):
        path.write_text(path.read_text() + os.linesep)
        ids.add(evaluate(changed_repository, "content_id('one-file')"))
    assert len(ids) == 3
