"""Specification of the scripts: --help everywhere, from any directory, through a link and a path with a space."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tree import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / "script").iterdir() if path.is_file() and not path.suffix)


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)


def test_all_scripts_are_there() -> None:
    # The list of the design's tree, and what makes, shows and proves the weights that its "embedded default" speaks of.
    design = {"setup", "test", "lint", "predict", "serve", "wheel", "weights", "build", "push", "bench"}
    assert set(SCRIPTS) == design | {"random-weights", "train-demo-weights", "gallery", "mutations"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_can_be_run_and_explains_itself(name: str, tmp_path: Path) -> None:
    script = ROOT / "script" / name
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env python3\n")
    done = call(sys.executable, script, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3


def test_a_script_works_from_another_directory_and_a_path_with_a_space(tree: Path, tmp_path: Path) -> None:
    done = call(tree / "script" / "predict", "one-file", "-i", "steps=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one-file.mp4").read_bytes() == b"made of nothing"


def test_a_script_works_through_a_link(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "a link").symlink_to(tree / "script" / "predict")
    done = call(tmp_path / "a link", "one-file", "-i", "steps=0", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "steps=0 is less than the minimum of 1\n")


def test_an_environment_that_is_up_to_date_is_left_alone(tree: Path) -> None:
    before = (tree / ".venv" / "made-from").stat().st_mtime_ns
    done = call(tree / "script" / "setup", cwd=tree)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tree / ".venv" / "made-from").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "changed",
    ["pyproject.toml", "one-file/requirements.txt", "script/setup", "shared/predictions-api/pyproject.toml"],
)
def test_a_changed_requirement_makes_the_environment_stale(tree: Path, changed: str) -> None:
    ask = [sys.executable, "-c", "import _bootstrap; print(_bootstrap.is_stale())"]
    path = tree / changed
    text = path.read_text()
    assert call(*ask, cwd=tree / "script").stdout == "False\n"
    try:
        path.write_text(text + "\n# changed\n")
        assert call(*ask, cwd=tree / "script").stdout == "True\n"
    finally:
        path.write_text(text)


def test_a_missing_cog_or_docker_is_told(tree: Path) -> None:
    # Whatever is on this machine: a path with python3 alone.
    environ = {"PATH": str(tree / ".venv" / "bin")}
    for command in (["build", "one-file"], ["push", "one-file", "someone"]):
        done = subprocess.run(
            [sys.executable, tree / "script" / command[0], *command[1:]],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "https://cog.run" in done.stderr


@pytest.mark.parametrize("arguments", [["nothing", "me"], ["one-file", "../me"], ["all", "me/name"]])
def test_a_push_to_no_model_or_no_owner_is_refused(tree: Path, arguments: list[str]) -> None:
    done = call(tree / "script" / "push", *arguments, cwd=tree)
    assert done.returncode == 2
