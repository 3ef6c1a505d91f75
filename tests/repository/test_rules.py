"""The rules of the tree that a reader relies on, held for every model that there is."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import struct
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tree import ROOT

MODELS = sorted(path.parent for path in ROOT.glob("*/cog.yaml"))
SHARED = ROOT / "shared" / "videokit" / "src"
SMALL_WEIGHTS = [path for model in MODELS for path in sorted(model.glob("demo-weights/**/*")) if path.is_file()]
PREDICTIONS_API = ROOT / "shared" / "predictions-api" / "src"
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)


def package_of(model: Path) -> str:
    return model.name.replace("-", "_")


def library_files() -> list[Path]:
    """Return the Python files of the packages: the models' and those in shared/."""
    places = [*(model / package_of(model) for model in MODELS), *(ROOT / "shared").iterdir()]
    return sorted(path for place in places for path in place.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the top-level names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_there_is_a_model() -> None:
    assert MODELS


@each_model
def test_models_never_import_each_other(model: Path) -> None:
    others = {package_of(other) for other in MODELS if other != model}
    for path in [model / "predict.py", *(model / package_of(model)).rglob("*.py")]:
        assert not imports(path) & others, path


@each_model
def test_a_models_package_never_imports_its_predict(model: Path) -> None:
    for path in (model / package_of(model)).rglob("*.py"):
        assert "predict" not in imports(path), path


def test_videokit_imports_no_model() -> None:
    models = {package_of(model) for model in MODELS}
    for path in SHARED.rglob("*.py"):
        assert not imports(path) & models, path


def test_the_predictions_api_imports_no_model_and_nothing_that_models_are_made_of() -> None:
    others = {package_of(model) for model in MODELS} | {"videokit", "random_weights", "cog", "coglet", "predict"}
    for path in PREDICTIONS_API.rglob("*.py"):
        assert not imports(path) & others, path


def test_models_and_videokit_do_not_import_the_predictions_api() -> None:
    for path in library_files():
        if not path.is_relative_to(PREDICTIONS_API):
            assert "predictions_api" not in imports(path), path


def test_predict_is_the_only_file_that_imports_cog() -> None:
    for path in library_files():
        assert not imports(path) & {"cog", "coglet"}, path


def test_nothing_is_printed_but_by_predict_and_the_scripts() -> None:
    for path in library_files():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Name) and node.id == "print"), f"{path}:{node.lineno}"


@each_model
def test_predict_is_thin(model: Path) -> None:
    assert len((model / "predict.py").read_text().splitlines()) <= 110


@each_model
def test_a_model_has_the_files_that_every_model_has(model: Path) -> None:
    files = {"cog.yaml", "requirements.txt", "predict.py", "README.md", ".dockerignore"}
    assert files <= {path.name for path in model.iterdir()}
    modules = {"__init__.py", "inputs.py", "weights.py", "pipeline.py"}
    assert modules <= {path.name for path in (model / package_of(model)).iterdir()}


# Cog's own list, with `additionalProperties: false` for both: the top level from replicate/cog@6110c91 (0.22.0), build
# from replicate/cog@7456d8e pkg/config/data/config_schema_v1.0.json and, newer than that, sdk_version.
TOP_LEVEL = {"build", "image", "model", "run", "predict", "train", "concurrency", "environment", "weights"}
BUILD = {
    "cuda",
    "cudnn",
    "gpu",
    "pre_install",
    "python_packages",
    "python_requirements",
    "python_version",
    "run",
    "sdk_version",
    "system_packages",
}


def config_of(model: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((model / "cog.yaml").read_text())
    return config


@each_model
def test_cog_knows_every_key_of_cog_yaml(model: Path) -> None:
    config = config_of(model)
    assert set(config) <= TOP_LEVEL
    assert set(config["build"]) <= BUILD


@each_model
def test_images_run_the_predictor_on_what_the_tests_run_on(model: Path) -> None:
    config = config_of(model)
    assert config["run"] == "predict.py:Predictor"
    assert config["build"]["python_version"] == "3.11"
    assert config["build"]["python_requirements"] == "requirements.txt"
    assert config["build"]["sdk_version"] == importlib.metadata.version("cog")
    assert config["build"]["gpu"] is True
    # 2.11.0 is the newest in Cog's table, and `cuda` has to be given from 2.12 on.
    assert config["build"]["cuda"] == "12.8"
    assert pins_of(model)["torch"] == "2.11.0"


def requirements_of(model: Path) -> list[str]:
    lines = [line.partition("#")[0].strip() for line in (model / "requirements.txt").read_text().splitlines()]
    return [line for line in lines if line]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()  # PEP 503


def pins_of(model: Path) -> dict[str, str]:
    pairs = [line.partition("==") for line in requirements_of(model) if not line.startswith("./")]
    return {normal(name): version for name, _, version in pairs}


@each_model
def test_every_requirement_is_pinned_and_one_is_the_wheel(model: Path) -> None:
    for line in requirements_of(model):
        assert re.fullmatch(r"[\w.-]+==[\w.]+|\./wheels/videokit-[\d.]+-py3-none-any\.whl", line)
    assert sum(line.startswith("./") for line in requirements_of(model)) == 1


@each_model
def test_images_have_the_versions_that_the_tests_run_with(model: Path) -> None:
    for name, version in pins_of(model).items():
        if name != "torch":  # newer here; see script/cpu_torch.py
            assert importlib.metadata.version(name) == version


def test_models_pin_the_same_versions() -> None:
    pins: dict[str, str] = {}
    for model in MODELS:
        for name, version in pins_of(model).items():
            assert pins.setdefault(name, version) == version


@each_model
def test_requirements_pin_what_is_imported_and_nothing_else(model: Path) -> None:
    files = [model / "predict.py", *(model / package_of(model)).rglob("*.py"), *SHARED.rglob("*.py")]
    imported = set().union(*map(imports, files)) - sys.stdlib_module_names
    imported -= {package_of(model), "videokit", "cog"}  # cog comes with the image: `sdk_version`
    distributions = importlib.metadata.packages_distributions()
    assert {normal(distributions[name][0]) for name in imported} == set(pins_of(model))


def test_the_predictions_api_pins_what_it_imports_and_nothing_else() -> None:
    project = tomllib.loads((PREDICTIONS_API.parent / "pyproject.toml").read_text())["project"]
    pins = {re.split(r"\[|==", line)[0]: line.partition("==")[2] for line in project["dependencies"]}
    for name, version in pins.items():
        assert importlib.metadata.version(name) == version
    imported = set().union(*map(imports, PREDICTIONS_API.rglob("*.py"))) - sys.stdlib_module_names - {"predictions_api"}
    distributions = importlib.metadata.packages_distributions()
    # Not imported by name: SQLAlchemy loads psycopg, FastAPI loads python-multipart.
    unnamed = {"psycopg", "python-multipart"}
    # Pinned by what is made of them: FastAPI of Starlette and that of anyio, jsonschema of referencing.
    parts = {"anyio", "starlette", "referencing"}
    assert {normal(distributions[name][0]) for name in imported} - parts == set(pins) - unnamed


@each_model
def test_a_models_random_weights_are_here_with_what_they_are(model: Path) -> None:
    assert (model / "demo-weights" / "README.md").exists()


def test_random_weights_are_tensors_and_texts_and_never_pickles() -> None:
    # a safetensors file begins with the length of the JSON that follows, 64 bits, little-endian (its README, Format)
    for path in SMALL_WEIGHTS:
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            (length,) = struct.unpack("<Q", content[:8])
            assert isinstance(json.loads(content[8 : 8 + length]), dict), path
        else:
            assert path.suffix in {".json", ".txt", ".md"}, path
            content.decode()


def test_random_weights_stay_small() -> None:
    # the bound that issue 5 sets for all that is committed
    assert sum(path.stat().st_size for path in SMALL_WEIGHTS if path.suffix == ".safetensors") < 20e6


@each_model
def test_a_models_picture_is_quick_to_load(model: Path) -> None:
    assert (model / "example.gif").stat().st_size < 600_000
