"""Specification of files that GitHub, Dependabot, Hugging Face and editors read. script/lint checks their schemas."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from tree import ROOT, models


def test_a_report_of_a_wrong_picture_requires_the_prediction_and_the_file() -> None:
    fields = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "wrong-picture.yml").read_text())["body"]
    by_id: dict[str, Any] = {field["id"]: field for field in fields if "id" in field}
    assert all(by_id[name]["validations"]["required"] for name in ("model", "prediction", "file"))


def test_dependabot_updates_every_directory_with_pins() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    found = {u["package-ecosystem"]: u.get("directories", [u.get("directory")]) for u in updates}
    files = ["*package-lock.json", "*requirements.txt", "*pyproject.toml"]
    listed = subprocess.run(["git", "ls-files", *files], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in map(PurePosixPath, listed.stdout.splitlines()):
        patterns = found["npm" if path.suffix == ".json" else "pip"]
        assert any(("/" / path).parent.match(pattern) for pattern in patterns), path


def test_the_commands_of_the_devcontainer_are_scripts() -> None:
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    # keys of containers.dev/implementors/json_reference
    assert set(settings) == {"name", "image", "postCreateCommand", "postAttachCommand"}
    for command in (settings["postCreateCommand"], settings["postAttachCommand"]):
        assert os.access(ROOT / command.split()[0], os.X_OK)


@pytest.mark.parametrize("model", models("demo-weights"))
def test_the_readme_of_demo_weights_is_a_model_card(model: str) -> None:
    card = ModelCard.load(ROOT / model / "demo-weights" / "README.md")
    assert card.data.license == "cc0-1.0"
    assert (card.data.pipeline_tag, card.data.library_name) == ("text-to-video", "diffusers")
    assert card.data.datasets == []
    assert card.text.lstrip().startswith(f"# The demo weights of {model}\n")


def test_agents_have_ten_lines_at_most() -> None:
    lines = (ROOT / "AGENTS.md").read_text().splitlines()
    assert len([line for line in lines if line]) <= 10


def test_all_packages_and_the_citation_have_one_version() -> None:
    found = []
    for pattern, shape in {
        "shared/*/pyproject.toml": r'^version = "(.+)"',
        "shared/videokit/src/*/__init__.py": r'^__version__ = "(.+)"',
        "*/*/__init__.py": r'^__version__ = "(.+)"',
        "*/requirements.txt": r"^\./wheels/videokit-(.+?)-",
        "CITATION.cff": r"^version: (.+)",
    }.items():
        for path in ROOT.glob(pattern):
            found += re.findall(shape, path.read_text(), re.MULTILINE)
    assert len(found) >= 10
    assert len(set(found)) == 1


def test_the_newest_release_of_the_changelog_is_the_one_that_the_citation_dates() -> None:
    newest = re.findall(r"^## \[(\d.*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    citation = (ROOT / "CITATION.cff").read_text()
    assert newest == tuple(re.findall(r"^(?:version|date-released): (.+)$", citation, re.MULTILINE))
