"""The layers of the package: http imports run, run imports store, and never the other way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import predictions_api
import pytest

ROOT = Path(predictions_api.__file__).parent
# A layer may import itself and those after it. `app` is app.py and __main__.py, `base` the other modules in ROOT.
LAYERS = ("app", "http", "run", "store", "base")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported_modules(module: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports, anywhere in it and for type checkers too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in submodules]
        else:
            continue
        yield from (name for name in names if name in MODULES)


GRAPH = {module: set(imported_modules(module)) - {module} for module in MODULES}


def layer_of(module: str) -> str:
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in LAYERS:
        return parts[1]
    return "app" if module.endswith(".__main__") else "base"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    allowed = LAYERS[LAYERS.index(layer_of(module)) :]
    upward = {name for name in GRAPH[module] if layer_of(name) not in allowed}
    assert not upward, f"{module} imports {', '.join(sorted(upward))}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


def test_every_layer_has_modules() -> None:
    assert {layer_of(module) for module in MODULES} == set(LAYERS)
