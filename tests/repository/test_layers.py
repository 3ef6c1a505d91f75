"""Imports flow one way: script -> tools -> models -> videokit. predictions_api is apart."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from imports import imported_names
from tree import ROOT, models, package_of

TOOLS = {path.parent.name: sorted(path.parent.rglob("*.py")) for path in ROOT.glob("tools/*/__init__.py")}
SCRIPTS = [path for path in (ROOT / "script").iterdir() if path.is_file() and "python" in path.read_text()[:30]]
PACKAGES = {package_of(model): sorted((ROOT / model / package_of(model)).rglob("*.py")) for model in models()}
FILES: dict[str, list[Path]] = {
    "videokit": sorted((ROOT / "shared/videokit/src").rglob("*.py")),
    "predictions_api": sorted((ROOT / "shared/predictions-api/src").rglob("*.py")),
    **PACKAGES,
    **{f"{model}/predict.py": [ROOT / model / "predict.py"] for model in models()},
    "tree": [ROOT / "tools/tree.py"],
    **TOOLS,
    "script": [*SCRIPTS, *sorted((ROOT / "script").glob("*.py"))],
}
SCRIPT_MODULES = {path.stem for path in ROOT.glob("script/*.py")}
TEST_SUPPORT = {path.stem for path in ROOT.glob("tests/support/*.py")}
MODEL_CODE = {*PACKAGES, "predict", "videokit"}
ALLOWED: dict[str, set[str]] = {
    "videokit": set(),
    "predictions_api": set(),
    **{package: {"videokit"} for package in PACKAGES},
    **{f"{model}/predict.py": {package_of(model), "videokit", "cog"} for model in models()},
    "tree": set(),
    **{tool: {"tree", *TOOLS, *MODEL_CODE} for tool in TOOLS},
    "cog_local": {"tree", "videokit"},
    "benchmarks": {"tree", *TOOLS, *MODEL_CODE, "cog"},  # its *_model.py are served by Cog
    "script": {"tree", *TOOLS, *MODEL_CODE, *SCRIPT_MODULES, "predictions_api"},
}
NAMES = {*FILES, *MODEL_CODE, *SCRIPT_MODULES, *TEST_SUPPORT, "cog", "coglet"}
GRAPH = {part: (set().union(*map(imported_names, files)) & NAMES) - {part} for part, files in FILES.items()}


@pytest.mark.parametrize("part", FILES)
def test_a_part_imports_only_the_parts_below_it(part: str) -> None:
    assert FILES[part], f"{part} has no files"
    assert not GRAPH[part] - ALLOWED[part], f"{part} imports {', '.join(sorted(GRAPH[part] - ALLOWED[part]))}"


def test_no_parts_import_each_other_in_a_circle() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle
