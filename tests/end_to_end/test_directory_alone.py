"""The directory of a model in a fresh clone, copied and installed as `cog build` does, makes a clip without the rest.

Only `git clone` comes before, so this tests what is committed. This is `cog build` without Docker. The build context is
the directory without what .dockerignore excludes. A fresh environment gets requirements.txt. Cog's server runs in that
environment.
"""

from __future__ import annotations

import base64
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from _bootstrap import CPU_BUILDS, uv_environ
from cog_local.schema import read_schema
from cog_local.server import CogServer
from tree import ROOT, models

TORCH = f"torch=={importlib.metadata.version('torch')}"
# A test uses those that its model has.
QUICK_INPUTS = {"steps": 2, "prompt_start": "a red circle", "prompt_end": "a blue square", "width": 128, "height": 128}
QUICK_INPUTS |= {"num_inference_steps": 2, "output_format": "mp4", "num_frames": 2}


def copy_context(model: Path, to: Path) -> None:
    """Copy a directory as Docker does, for patterns without `!`."""
    lines = [line.strip() for line in (model / ".dockerignore").read_text().splitlines()]
    patterns = [line.strip("/") for line in lines if line and not line.startswith("#")]
    assert not any(pattern.startswith("!") for pattern in patterns)

    def ignore(directory: str, names: list[str]) -> list[str]:
        paths = {name: (Path(directory) / name).relative_to(model).as_posix() for name in names}
        return [
            name
            for name, path in paths.items()
            if any(fnmatch(path, p) or (p.startswith("**/") and fnmatch(name, p[3:])) for p in patterns)
        ]

    shutil.copytree(model, to, ignore=ignore)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Return a function: the Python of an environment with the requirements of a directory, one for each list."""
    environments: dict[tuple[str, ...], Path] = {}

    def install(alone: Path) -> Path:
        sdk = yaml.safe_load((alone / "cog.yaml").read_text())["build"]["sdk_version"]
        lines = [line.partition("#")[0].strip() for line in (alone / "requirements.txt").read_text().splitlines()]
        requirements = (f"cog=={sdk}", *(TORCH if line.startswith("torch==") else line for line in lines if line))
        if requirements not in environments:
            python = tmp_path_factory.mktemp("environment") / "bin" / "python"
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", python.parent.parent], check=True)
            uv = [sys.executable, "-m", "uv", "pip", "install", "--python", python, *requirements]
            environ = {name: value for name, value in uv_environ().items() if not name.startswith("PYTHON")}
            if subprocess.run(uv, cwd=alone, env=environ, capture_output=True, check=False).returncode:
                subprocess.run([*uv, CPU_BUILDS], cwd=alone, env=environ, check=True)
            environments[requirements] = python
        return environments[requirements]

    return install


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clone") / "repository"
    subprocess.run(["git", "clone", "-q", ROOT, path], check=True)
    return path


@pytest.mark.parametrize("model", models())
def test_a_models_directory_alone_makes_a_clip(
    model: str, clone: Path, environment: Callable[[Path], Path], tmp_path: Path
) -> None:
    alone = tmp_path / "src"
    copy_context(clone / model, alone)

    python = environment(alone)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [python, "-c", "import videokit; print(videokit.__file__)"]
    module = subprocess.run(command, cwd=alone, env=environ, check=True, capture_output=True, text=True).stdout
    assert Path(module).is_relative_to(python.parent.parent)  # from the wheel, not from the tree

    declared = read_schema(alone)["components"]["schemas"]["Input"]["properties"]
    inputs = {
        name: max(value, declared[name].get("minimum", value))
        for name, value in QUICK_INPUTS.items()
        if name in declared
    }
    with CogServer(alone, python=python, env={"PYTHONNOUSERSITE": "1", "PYTHONPATH": ""}) as server:
        answer = server.predict(inputs)
    assert answer["status"] == "succeeded", answer
    outputs = answer["output"] if isinstance(answer["output"], list) else [answer["output"]]
    header, _, content = outputs[-1].partition(",")
    assert header == "data:video/mp4;base64"
    assert base64.b64decode(content)[4:8] == b"ftyp"  # ISO/IEC 14496-12, 4.3: the first box of a file
