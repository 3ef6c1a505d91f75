"""A model's directory alone is enough for an image: copied to an empty place, installed, served, and asked for a clip.

What `cog build` does, as far as it goes without Docker: the build context is that directory less what .dockerignore
names, requirements.txt is installed into a fresh environment, and Cog's server is started in it.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from cog_local.schema import read_schema
from cog_local.server import CogServer
from cpu_torch import TORCH, cpu_wheels
from tree import ROOT

MODELS = sorted(path.parent for path in ROOT.glob("*/cog.yaml"))
# each model takes those that it has
CHEAP = {"steps": 2, "prompt_start": "a red circle", "prompt_end": "a blue square", "width": 128, "height": 128}
CHEAP |= {"num_inference_steps": 2, "output_format": "mp4", "num_frames": 2}


def copy_context(model: Path, to: Path) -> None:
    """Copy a directory as Docker takes it, for patterns without `!`."""
    lines = [line.strip() for line in (model / ".dockerignore").read_text().splitlines()]
    patterns = [line.strip("/") for line in lines if line and not line.startswith("#")]
    assert not any(pattern.startswith("!") for pattern in patterns)

    def ignored(directory: str, names: list[str]) -> list[str]:
        places = {name: (Path(directory) / name).relative_to(model).as_posix() for name in names}
        return [
            name
            for name, place in places.items()
            if any(fnmatch(place, p) or (p.startswith("**/") and fnmatch(name, p[3:])) for p in patterns)
        ]

    shutil.copytree(model, to, ignore=ignored)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Return the Python of a fresh environment with what a copied directory requires, made once for the same list."""
    made: dict[tuple[str, ...], Path] = {}

    def install(alone: Path) -> Path:
        sdk = yaml.safe_load((alone / "cog.yaml").read_text())["build"]["sdk_version"]
        lines = [line.partition("#")[0].strip() for line in (alone / "requirements.txt").read_text().splitlines()]
        wanted = (f"cog=={sdk}", *(TORCH if line.startswith("torch==") else line for line in lines if line))
        if wanted not in made:
            python = tmp_path_factory.mktemp("environment") / "bin" / "python"
            subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
            pip = [python, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check", *cpu_wheels()]
            environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
            subprocess.run([*pip, *wanted], cwd=alone, env=environ, check=True)
            made[wanted] = python
        return made[wanted]

    return install


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_a_models_directory_alone_makes_a_clip(
    model: Path, environment: Callable[[Path], Path], tmp_path: Path
) -> None:
    subprocess.run([ROOT / "script" / "wheel", model.name], check=True, capture_output=True)
    alone = tmp_path / "src"
    copy_context(model, alone)

    python = environment(alone)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ask = [python, "-c", "import videokit; print(videokit.__file__)"]
    found = subprocess.run(ask, cwd=alone, env=environ, check=True, capture_output=True, text=True).stdout
    assert Path(found).is_relative_to(python.parent.parent)  # the wheel, not the tree

    known = read_schema(alone)["components"]["schemas"]["Input"]["properties"]
    inputs = {name: max(value, known[name].get("minimum", value)) for name, value in CHEAP.items() if name in known}
    with CogServer(alone, python=python, env={"PYTHONNOUSERSITE": "1", "PYTHONPATH": ""}) as server:
        answer = server.predict(inputs)
    assert answer["status"] == "succeeded", answer
    outputs = answer["output"] if isinstance(answer["output"], list) else [answer["output"]]
    header, _, content = outputs[-1].partition(",")
    assert header == "data:video/mp4;base64"
    assert base64.b64decode(content)[4:8] == b"ftyp"  # ISO/IEC 14496-12, 4.3: the first box of a file
