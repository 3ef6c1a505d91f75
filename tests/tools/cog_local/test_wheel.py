"""Specification of script/wheel: the same bytes for the same sources, and only videokit in them."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from tree import ROOT, models


def build(repository: Path, *models: str, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
    command = [str(repository / "script" / "wheel"), *models]
    return subprocess.run(command, umask=umask, capture_output=True, text=True, check=False)


def wheel_of(model_dir: Path) -> Path:
    (wheel,) = (model_dir / "wheels").iterdir()
    return wheel


def test_two_builds_are_byte_identical(repository: Path, changed_repository: Path) -> None:
    # The second: another directory, another umask, files of another age that only their owner may read.
    for path in (changed_repository / "shared" / "videokit").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert build(repository).returncode == 0
    assert build(changed_repository, umask=0o077).returncode == 0
    assert wheel_of(repository / "one-file").read_bytes() == wheel_of(changed_repository / "one-file").read_bytes()
    assert wheel_of(repository / "one-file").read_bytes() == wheel_of(repository / "several-files").read_bytes()


def test_the_wheel_has_only_the_modules_of_videokit(changed_repository: Path) -> None:
    package = changed_repository / "shared" / "videokit" / "src" / "videokit"
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "errors.cpython-311.pyc").write_bytes(b"bytecode")
    (changed_repository / "shared" / "videokit" / "notes.txt").write_text("next to the package")
    assert build(changed_repository).returncode == 0
    wheel = wheel_of(changed_repository / "one-file")
    named = "-".join(wheel.name.split("-")[:2])
    source = ROOT / "shared/videokit/src"
    modules = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    # METADATA, WHEEL and RECORD: the binary distribution format of packaging.python.org
    metadata = {f"{named}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD")}
    assert set(zipfile.ZipFile(wheel).namelist()) == modules | {"videokit/py.typed"} | metadata


def test_a_wheel_with_the_same_bytes_is_not_touched_and_older_ones_are_removed(changed_repository: Path) -> None:
    build(changed_repository)
    wheel = wheel_of(changed_repository / "one-file")
    os.utime(wheel, (1_000_000_000, 1_000_000_000))
    (wheel.parent / "videokit-0.0.1-py3-none-any.whl").write_bytes(b"older")
    build(changed_repository)
    assert wheel_of(changed_repository / "one-file").stat().st_mtime == 1_000_000_000


@pytest.mark.parametrize("model", models())
def test_the_committed_wheel_is_built_from_the_sources_of_this_tree(repository: Path, model: str) -> None:
    build(repository)
    built = wheel_of(repository / "one-file")
    committed = ROOT / model / "wheels" / built.name
    assert committed.read_bytes() == built.read_bytes(), "run script/wheel and commit the wheels"


def test_the_wheel_is_not_compressed(changed_repository: Path) -> None:
    build(changed_repository)
    files = zipfile.ZipFile(wheel_of(changed_repository / "one-file")).infolist()
    assert {file.compress_type for file in files} == {zipfile.ZIP_STORED}


def test_one_model_can_be_chosen(changed_repository: Path) -> None:
    assert build(changed_repository, "one-file").returncode == 0
    assert (changed_repository / "one-file" / "wheels").exists()
    assert not (changed_repository / "several-files" / "wheels").exists()


def test_requirements_that_name_another_version_are_refused(changed_repository: Path) -> None:
    (changed_repository / "one-file" / "requirements.txt").write_text("./wheels/videokit-9.9-py3-none-any.whl\n")
    # With the environment's Python, because the changed requirements would start script/setup.
    python = changed_repository / ".venv" / "bin" / "python"
    command = [str(python), str(changed_repository / "script" / "wheel"), "one-file"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "one-file/requirements.txt does not name ./wheels/videokit-" in done.stderr
