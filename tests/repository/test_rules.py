"""Rules of the repository that hold for every model. test_layers.py has those of imports."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import struct
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from declared_inputs import missing_field
from imports import imported_names
from tree import ROOT, models, package_of
from videokit.video import signing

MODELS = [ROOT / model for model in models()]
VIDEOKIT = ROOT / "shared" / "videokit" / "src"
PREDICTIONS_API = ROOT / "shared" / "predictions-api" / "src"
DEMO_WEIGHTS = [path for model in MODELS for path in sorted(model.glob("demo-weights/**/*")) if path.is_file()]
# every version of a package in lock/, by name
LOCK: dict[str, set[str]] = {}
for text in [path.read_text() for path in ROOT.glob("lock/*.txt")]:
    for name, version in re.findall(r"^([\w.-]+)===?([\w.+]+)", text, re.MULTILINE):
        LOCK.setdefault(name, set()).add(version)
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)


def test_libraries_print_nothing() -> None:
    for directory in [*(model / package_of(model.name) for model in MODELS), ROOT / "shared"]:
        for path in directory.rglob("*.py"):
            names = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)]
            assert "print" not in [node.id for node in names], path


@each_model
def test_predict_is_thin(model: Path) -> None:
    assert len((model / "predict.py").read_text().splitlines()) <= 80


@each_model
def test_every_input_of_predict_is_a_field_of_inputs(model: Path) -> None:
    assert missing_field(model.name) is None


@each_model
def test_a_model_has_the_files_that_every_model_has(model: Path) -> None:
    files = {"cog.yaml", "requirements.txt", "predict.py", "openapi.json", "README.md", ".dockerignore"}
    assert files <= {path.name for path in model.iterdir()}
    modules = {"__init__.py", "inputs.py", "pipeline.py"}
    assert modules <= {path.name for path in (model / package_of(model.name)).iterdir()}


@each_model
def test_images_run_the_predictor_on_what_the_tests_run_on(model: Path) -> None:
    # The keys are from Cog's JSON schema: the top level from replicate/cog@6110c91 (0.22.0), `build` from
    # replicate/cog@7456d8e pkg/config/data/config_schema_v1.0.json, which has no sdk_version yet.
    config = yaml.safe_load((model / "cog.yaml").read_text())
    device = {"gpu": True, "cuda": "12.8"} if config["build"]["gpu"] else {"gpu": False}
    build = {
        **device,
        "python_version": "3.11",
        "python_requirements": "requirements.txt",
        "sdk_version": importlib.metadata.version("cog"),
    }
    assert config == {"build": build, "run": "predict.py:Predictor"}
    assert pins_of(model).get("torch", "2.11.0") == "2.11.0"  # the last one in Cog's table of CUDA versions


def requirements_of(model: Path) -> list[str]:
    lines = [line.partition("#")[0].strip() for line in (model / "requirements.txt").read_text().splitlines()]
    return [line for line in lines if line]


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()  # PEP 503


def pins_of(model: Path) -> dict[str, str]:
    pairs = [line.partition("==") for line in requirements_of(model) if not line.startswith("./")]
    return {normalized(name): version for name, _, version in pairs}


def optional(model: Path) -> set[str]:
    """Return what videokit imports only for extras that are not pinned: signing, and torch in a model without it."""
    extras = tomllib.loads((VIDEOKIT.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return set().union(*(extras[name] for name in extras if name not in pins_of(model)))


@each_model
def test_every_requirement_is_pinned_and_one_is_the_wheel(model: Path) -> None:
    for line in requirements_of(model):
        assert re.fullmatch(r"[\w.-]+==[\w.]+|\./wheels/videokit-[\d.]+-py3-none-any\.whl", line)
    assert sum(line.startswith("./") for line in requirements_of(model)) == 1


@each_model
def test_images_have_the_versions_that_are_locked_and_installed(model: Path) -> None:
    for name, version in pins_of(model).items():
        if name != "torch":  # pyproject.toml has a newer one
            assert LOCK[name] == {version}, "run script/lock"
            assert importlib.metadata.version(name) == version


@pytest.mark.parametrize("project", [ROOT / "pyproject.toml", *sorted(ROOT.glob("shared/*/pyproject.toml"))])
def test_what_a_pyproject_requires_is_locked(project: Path) -> None:
    loaded = tomllib.loads(project.read_text())
    lines = loaded.get("dependency-groups", {}).get("dev", []) + loaded.get("project", {}).get("dependencies", [])
    assert lines
    for line in lines:
        name, _, version = re.sub(r"\[\w+\]", "", line).partition("==")
        assert version in {"", *LOCK[normalized(name)]}, "run script/lock"


@pytest.mark.parametrize("path", sorted(ROOT.glob("lock/*.txt")), ids=lambda path: path.name)
def test_every_locked_package_has_a_version_and_hashes(path: Path) -> None:
    header, *packages = re.split(r"^(?=\w)", path.read_text(), flags=re.MULTILINE)
    assert header == "# Written by script/lock. Do not edit it.\n"
    shape = r"[\w.-]+===?[\w.+]+( ;.*?)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+"
    for package in packages:
        assert re.fullmatch(shape, package), package


def test_the_formats_of_jsonschema_that_take_seconds_to_import_are_not_installed() -> None:
    # jsonschema imports them if they are there, so every script and server would start later
    assert "rfc3987-syntax" not in LOCK


def test_both_builds_of_torch_are_locked_in_the_version_of_pyproject() -> None:
    version = importlib.metadata.version("torch").partition("+")[0]
    assert LOCK["torch"] == {version, f"{version}+cpu"}


def test_models_pin_the_same_versions() -> None:
    pins: dict[str, str] = {}
    for model in MODELS:
        for name, version in pins_of(model).items():
            assert pins.setdefault(name, version) == version


@each_model
def test_requirements_pin_what_is_imported_and_nothing_else(model: Path) -> None:
    files = [model / "predict.py", *(model / package_of(model.name)).rglob("*.py"), *VIDEOKIT.rglob("*.py")]
    imported = set().union(*map(imported_names, files)) - sys.stdlib_module_names
    imported -= {package_of(model.name), "videokit", "cog"}  # `sdk_version` installs cog
    distributions = importlib.metadata.packages_distributions()
    assert {normalized(distributions[name][0]) for name in imported} - optional(model) == set(pins_of(model))


@each_model
def test_the_optional_package_of_an_image_is_the_one_that_the_tests_run_with(model: Path) -> None:
    version = importlib.metadata.version("c2pa-python")
    assert f"\n# c2pa-python=={version} " in (model / "requirements.txt").read_text()
    assert f"c2pa-python=={version}" == signing.PACKAGE


def test_the_predictions_api_pins_what_it_imports_and_nothing_else() -> None:
    project = tomllib.loads((PREDICTIONS_API.parent / "pyproject.toml").read_text())["project"]
    pins = {re.split(r"\[|==", line)[0]: line.partition("==")[2] for line in project["dependencies"]}
    for name, version in pins.items():
        assert importlib.metadata.version(name) == version
    imported = set().union(*map(imported_names, PREDICTIONS_API.rglob("*.py")))
    imported -= {*sys.stdlib_module_names, "predictions_api"}
    distributions = importlib.metadata.packages_distributions()
    plugins = {"psycopg", "python-multipart", "uvloop"}  # imported by SQLAlchemy, FastAPI and uvicorn
    indirect = {"anyio", "starlette", "referencing"}  # pinned by FastAPI, Starlette and jsonschema
    assert {normalized(distributions[name][0]) for name in imported} - indirect == set(pins) - plugins


def test_demo_weights_are_tensors_and_texts_and_never_pickles() -> None:
    # A safetensors file starts with the length of its JSON header, 64 bits, little-endian (README of safetensors).
    for path in DEMO_WEIGHTS:
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            (length,) = struct.unpack("<Q", content[:8])
            assert isinstance(json.loads(content[8 : 8 + length]), dict), path
        else:
            assert path.suffix in {".json", ".txt", ".md"}, path
            content.decode()


def test_demo_weights_take_less_than_20_mb() -> None:
    assert sum(path.stat().st_size for path in DEMO_WEIGHTS if path.suffix == ".safetensors") < 20e6


def test_the_pictures_of_the_readmes_are_below_2_mb() -> None:
    assert sum((ROOT / model / "example.gif").stat().st_size for model in models("example.gif")) < 2_000_000
