"""Specification of script/wheel: the same bytes whoever builds them, and nothing in them but videokit."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

from tree import ROOT


def build(tree: Path, *models: str, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
    command = [str(tree / "script" / "wheel"), *models]
    return subprocess.run(command, umask=umask, capture_output=True, text=True, check=False)


def wheel_of(model_dir: Path) -> Path:
    (wheel,) = (model_dir / "wheels").iterdir()
    return wheel


def test_two_builds_are_byte_identical(tree: Path, another_tree: Path) -> None:
    # In another directory, by a user with another umask, from files of another age that only their owner may read.
    for path in (another_tree / "shared" / "videokit").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert build(tree).returncode == 0
    assert build(another_tree, umask=0o077).returncode == 0
    assert wheel_of(tree / "one-file").read_bytes() == wheel_of(another_tree / "one-file").read_bytes()
    assert wheel_of(tree / "one-file").read_bytes() == wheel_of(tree / "several-files").read_bytes()


def test_the_wheel_has_videokits_modules_and_nothing_else(another_tree: Path) -> None:
    package = another_tree / "shared" / "videokit" / "src" / "videokit"
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "errors.cpython-311.pyc").write_bytes(b"bytecode")
    (another_tree / "shared" / "videokit" / "notes.txt").write_text("beside the package")
    assert build(another_tree).returncode == 0
    wheel = wheel_of(another_tree / "one-file")
    named = "-".join(wheel.name.split("-")[:2])
    modules = {f"videokit/{path.name}" for path in (ROOT / "shared/videokit/src/videokit").glob("*.py")}
    # METADATA, WHEEL and RECORD: the binary distribution format of packaging.python.org
    about = {f"{named}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD")}
    assert set(zipfile.ZipFile(wheel).namelist()) == modules | {"videokit/py.typed"} | about


def test_a_wheel_of_the_same_bytes_is_left_alone_and_older_ones_go(another_tree: Path) -> None:
    # What does not change keeps its layer in an image.
    build(another_tree)
    wheel = wheel_of(another_tree / "one-file")
    os.utime(wheel, (1_000_000_000, 1_000_000_000))
    (wheel.parent / "videokit-0.0.1-py3-none-any.whl").write_bytes(b"older")
    build(another_tree)
    assert wheel_of(another_tree / "one-file").stat().st_mtime == 1_000_000_000


def test_one_model_can_be_chosen(another_tree: Path) -> None:
    assert build(another_tree, "one-file").returncode == 0
    assert (another_tree / "one-file" / "wheels").exists()
    assert not (another_tree / "several-files" / "wheels").exists()


def test_requirements_that_name_another_version_are_told(another_tree: Path) -> None:
    (another_tree / "one-file" / "requirements.txt").write_text("./wheels/videokit-9.9-py3-none-any.whl\n")
    # The environment is stale now; that is another test's.
    python = another_tree / ".venv" / "bin" / "python"
    command = [str(python), str(another_tree / "script" / "wheel"), "one-file"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "one-file/requirements.txt does not name ./wheels/videokit-" in done.stderr
