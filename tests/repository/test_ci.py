"""Specification of .ci/run and script/ci, with a fake apt-get and a fake script/test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tree import ROOT


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a directory with .ci/run, script/ci, and bin/ as the only directory of the path."""
    for directory in (".ci", "script", "bin"):
        (tmp_path / directory).mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    shutil.copy(ROOT / "script" / "ci", tmp_path / "script")
    write_program(tmp_path / "script" / "test", 'echo "tests: CI=$CI $*"; exit 3')
    write_program(tmp_path / "bin" / "apt-get", 'echo "apt-get $*"')
    write_program(tmp_path / "bin" / "sudo", '"$@"')
    write_program(tmp_path / "bin" / "ls", "exit 1")  # finds no PostgreSQL
    for name in ("sh", "dirname", "id"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    return tmp_path


def run(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [str(checkout / ".ci" / "run"), "-k", "one"]
    return subprocess.run(command, env={"PATH": str(checkout / "bin")}, capture_output=True, text=True, check=False)


def test_missing_programs_are_installed_before_the_tests_run(checkout: Path) -> None:
    done = run(checkout)
    *_, update, install, tests = done.stdout.splitlines()
    assert update == "apt-get update -qq"
    packages = {"chromium-headless-shell", "ffmpeg", "libimage-exiftool-perl", "nodejs", "npm", "openssl", "curl"}
    assert packages | {"postgresql", "python3-venv"} <= set(install.split())
    assert (tests, done.returncode) == ("tests: CI=1 -k one", 3)


def test_nothing_is_installed_when_all_programs_are_there(checkout: Path) -> None:
    names = ("ffmpeg", "ffprobe", "exiftool", "node", "npm", "openssl", "curl", "python3")
    for name in ("chromium-headless-shell", *names):
        write_program(checkout / "bin" / name, "exit 0")
    write_program(checkout / "bin" / "ls", "echo /usr/lib/postgresql/15/bin/postgres")
    assert run(checkout).stdout == "tests: CI=1 -k one\n"
