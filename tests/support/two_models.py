"""A small repository for the tests of the scripts: the real scripts and tools, and two models without weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

from cog_local.schema import write_schema
from tree import ROOT, package_of

ONE_FILE = '''
import time
from pathlib import Path as LocalPath
from typing import Optional

from cog import BaseRunner, Input, Path
from tqdm import tqdm


class InvalidInput(Exception):
    """Has the name of videokit's class."""


class Predictor(BaseRunner):
    def setup(self) -> None:
        print("loading")
        print("warning: it is cold")

    def run(
        self,
        mode: str = Input(description="What to do", choices=["clip", "fail", "refuse"], default="clip"),
        steps: int = Input(description="Steps", ge=1, le=100, default=4),
        seconds: float = Input(description="Time per step", ge=0, le=1, default=0),
        image: Optional[Path] = Input(description="A file"),
        seed: Optional[int] = Input(description="Seed"),
        hold: Optional[str] = Input(description="A local file to wait for before the last step"),
    ) -> Path:
        for step in tqdm(range(steps), miniters=1, mininterval=0):
            time.sleep(seconds)
            while step == steps - 1 and hold and not LocalPath(hold).exists():
                time.sleep(0.02)
        if mode == "fail":
            raise ValueError("an error of the model")
        if mode == "refuse":
            raise InvalidInput("width=3 is odd; try 4\\nseed=-1 is out of range")
        for name, value in {"seed": seed or 7, "frames": 16, "duration": 2.0}.items():
            self.record_metric(name, value)
        target = LocalPath("clip.mp4")
        target.write_bytes(b"from " + (LocalPath(image).read_bytes() if image else b"nothing"))
        return Path(target)
'''

SEVERAL_FILES = """
from collections.abc import Iterator
from pathlib import Path as LocalPath

from cog import BaseRunner, Input, Path


class InvalidInput(Exception):
    pass


class Predictor(BaseRunner):
    def run(self, words: list[str] = Input(description="One file each")) -> Iterator[Path]:
        for index, word in enumerate(words):
            if not word:
                raise InvalidInput("a word is empty")
            file = LocalPath(f"{index}.gif")
            file.write_text(word)
            yield Path(file)
"""


def make_repository(root: Path) -> Path:
    """Make a repository at `root`, with an up-to-date environment that shares the packages of this one."""
    junk = shutil.ignore_patterns("__pycache__")
    for place in ("script", "tools", "lock"):
        shutil.copytree(ROOT / place, root / place, ignore=junk)
    for package in ("videokit", "predictions-api"):
        shutil.copytree(ROOT / "shared" / package, root / "shared" / package, ignore=junk)
    shutil.copy(ROOT / "pyproject.toml", root)
    version = tomllib.loads((ROOT / "shared" / "videokit" / "pyproject.toml").read_text())["project"]["version"]
    for model, predict in {"one-file": ONE_FILE, "several-files": SEVERAL_FILES}.items():
        (root / model).mkdir()
        (root / model / "cog.yaml").write_text('run: "predict.py:Predictor"\n')
        (root / model / "predict.py").write_text(predict)
        package = root / model / package_of(model)
        package.mkdir()
        (package / "__init__.py").write_text('__version__ = "1.0"\n')
        write_schema(root / model)
        (root / model / "requirements.txt").write_text(f"./wheels/videokit-{version}-py3-none-any.whl\n")
    make_environment(root)
    return root


def make_environment(root: Path) -> None:
    """Make the .venv of a repository, up to date, with the packages of this environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    packages = next((root / ".venv").glob("lib/python3*/site-packages"))
    (packages / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    command = [sys.executable, "-c", "import _bootstrap; _bootstrap.STAMP.write_text(_bootstrap.fingerprint())"]
    subprocess.run(command, cwd=root / "script", check=True)
