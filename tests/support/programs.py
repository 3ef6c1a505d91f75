"""Programs that some tests need. Without them these tests are skipped, and fail in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def needs(program: str) -> str:
    """Return the path of a program. Without it, skip the test, or fail the test if CI is set."""
    path = shutil.which(program)
    if path is None:
        reason = f"{program} is not installed; .ci/run installs it with apt"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def npm_directory(config: pytest.Config, name: str, sources: Path) -> Path:
    """Return a directory in pytest's cache with a copy of `sources` and the packages of its package-lock.json."""
    npm = needs("npm")
    directory = config.cache.mkdir(name)
    for source in sources.iterdir():
        shutil.copy(source, directory)
    lock, installed = directory / "package-lock.json", directory / "installed-lock.json"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        subprocess.run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=directory, check=True)
        shutil.copy(lock, installed)
    return directory
