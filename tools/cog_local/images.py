"""What images need: the wheels of videokit and of the predictions API, and the `cog` program that builds and pushes.

The same sources give the same bytes. A wheel that already has these bytes is not touched, so that an image keeps its
layer of requirements. The wheel is committed, because Cog sees only the model's directory. It is not compressed, so
that its bytes do not depend on the version of zlib, and git stores a new version in a few KB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tree import ROOT
from videokit.files import atomic_write

_EPOCH = "1577836800"  # 2020-01-01, the time of all files in the wheel


def cog(model: str, *arguments: str) -> None:
    """Run `cog` in a model's directory. Exits if cog or Docker is missing, or if cog fails."""
    for program, url in (("cog", "https://cog.run"), ("docker", "https://docs.docker.com/engine/install")):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed; see {url}")
    print(f"{model}: cog {' '.join(arguments)}", flush=True)
    if code := subprocess.run(["cog", *arguments], cwd=ROOT / model, check=False).returncode:
        sys.exit(code)


def install_wheel(models: list[str]) -> None:
    """Build videokit's wheel and copy it to each model. Exits with a message if that is impossible."""
    with tempfile.TemporaryDirectory() as directory:
        wheel = _uncompressed(_build(ROOT / "shared" / "videokit", directory))
        for model in models:
            if f"./wheels/{wheel.name}" not in (ROOT / model / "requirements.txt").read_text().split():
                sys.exit(f"{model}/requirements.txt does not name ./wheels/{wheel.name}")
            _copy(wheel, ROOT / model / "wheels")


def build_api_wheel() -> None:
    """Build the wheel of the predictions API into dist/. Exits with a message if that is impossible."""
    with tempfile.TemporaryDirectory() as directory:
        _copy(_build(ROOT / "shared" / "predictions-api", directory), ROOT / "dist")


def _build(package: Path, directory: str) -> Path:
    # not in an isolated environment, so without network
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": _EPOCH}
    done = subprocess.run(command, cwd=package, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{package.name} cannot be built:\n{done.stderr}")
    return next(Path(directory).glob("*.whl"))


def _uncompressed(wheel: Path) -> Path:
    """Return a wheel with the same files without compression, in a new directory next to it."""
    target = wheel.parent / "uncompressed" / wheel.name
    target.parent.mkdir()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as stored:
        for info in source.infolist():
            content = source.read(info)
            info.compress_type = zipfile.ZIP_STORED
            stored.writestr(info, content)
    return target


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
