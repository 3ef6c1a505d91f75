"""Builds videokit's wheel into the models' wheels/ directories, where each requirements.txt names it.

The same sources give the same bytes. A wheel that already has these bytes is not touched, so that an image keeps its
layer of requirements.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tree import ROOT
from videokit.files import atomic_write

_PACKAGE = ROOT / "shared" / "videokit"
_EPOCH = "1577836800"  # 2020-01-01, the time of all files in the wheel


def install_wheel(models: list[str]) -> None:
    """Build the wheel once and copy it to each model. Exits with a message if that is impossible."""
    with tempfile.TemporaryDirectory() as directory:
        wheel = _build(Path(directory))
        for model in models:
            if f"./wheels/{wheel.name}" not in (ROOT / model / "requirements.txt").read_text().split():
                sys.exit(f"{model}/requirements.txt does not name ./wheels/{wheel.name}")
            _copy(wheel, ROOT / model / "wheels")


def _build(directory: Path) -> Path:
    """Build the wheel without an isolated environment, so without network, and return its path."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)],
        cwd=_PACKAGE,
        env={**os.environ, "SOURCE_DATE_EPOCH": _EPOCH},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"videokit cannot be built:\n{done.stderr}")
    return next(directory.glob("*.whl"))


def _copy(wheel: Path, wheels: Path) -> None:
    """Copy a wheel into a directory unless the same bytes are there, and remove all other files."""
    target = wheels / wheel.name
    wheels.mkdir(exist_ok=True)
    if not target.exists() or target.read_bytes() != wheel.read_bytes():
        with atomic_write(target) as part:
            part.write_bytes(wheel.read_bytes())
    for other in set(wheels.iterdir()) - {target}:
        other.unlink()
    print(target.relative_to(ROOT))
