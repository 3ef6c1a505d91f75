"""Specification of all scripts: --help, unknown models, the environment, and calls through a link."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import wait_until_ended
from pseudo_terminal import CTRL_C, terminal
from tree import ROOT, models

SCRIPTS = sorted(path.name for path in (ROOT / "script").iterdir() if path.is_file() and not path.suffix)


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tree without an environment and without models."""
    tree = tmp_path_factory.mktemp("checkout")
    for name in ("script", "shared", "tools"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_help_before_there_is_an_environment(name: str, checkout: Path) -> None:
    done = call(checkout / "script" / name, "--help", cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - {"ci", "test"}))  # they take pytest's options
def test_a_misspelt_option_is_refused_before_there_is_an_environment(name: str, checkout: Path) -> None:
    assert call(checkout / "script" / name, "--misspelt", cwd=checkout).returncode == 2
    assert not (checkout / ".venv").exists()


def test_a_script_works_through_a_link(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "a link").symlink_to(repository / "script" / "predict")
    done = call(tmp_path / "a link", "one-file", "-i", "steps=0", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "steps=0 is less than the minimum of 1\n")


def test_an_environment_that_is_up_to_date_is_not_touched(repository: Path) -> None:
    before = (repository / ".venv" / "made-from").stat().st_mtime_ns
    done = call(repository / "script" / "setup", cwd=repository)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (repository / ".venv" / "made-from").stat().st_mtime_ns == before


@pytest.mark.parametrize("changed", [*sorted(ROOT.glob("lock/*")), ROOT / "script" / "_bootstrap.py"])
def test_an_environment_is_stale_when_what_it_was_made_from_has_changed(repository: Path, changed: Path) -> None:
    ask = [sys.executable, "-c", "import _bootstrap; print(_bootstrap.fingerprint())"]
    path = repository / changed.relative_to(ROOT)
    text = path.read_text()
    made_from = (repository / ".venv" / "made-from").read_text()
    assert call(*ask, cwd=repository / "script").stdout == f"{made_from}\n"
    try:
        path.write_text(text + "\n# changed\n")
        assert call(*ask, cwd=repository / "script").stdout != f"{made_from}\n"
    finally:
        path.write_text(text)


def test_a_running_script_does_not_stop_another_one(repository: Path) -> None:
    script = "import subprocess, _bootstrap; _bootstrap.in_environment()"
    script += "; subprocess.run([_bootstrap.ROOT / 'script' / 'setup'], check=True, timeout=60)"
    done = call(repository / ".venv" / "bin" / "python", "-c", script, cwd=repository / "script")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_cog_is_reported_with_its_address(repository: Path) -> None:
    # A path with only python3, whatever is installed on this machine.
    environ = {"PATH": str(repository / ".venv" / "bin")}
    for script, *arguments in (["build", "one-file"], ["push", "one-file", "someone"]):
        command = [sys.executable, repository / "script" / script, *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "https://cog.run" in done.stderr


@pytest.mark.parametrize("arguments", [["one-file", "../me"], ["all", "me/name"]])
def test_a_push_to_an_invalid_owner_is_refused(repository: Path, arguments: list[str]) -> None:
    assert call(repository / "script" / "push", *arguments, cwd=repository).returncode == 2


@pytest.mark.parametrize("script", ["build", "predict", "push", "sbom", "schema", "serve", "wheel"])
def test_an_unknown_model_is_refused_with_the_names_of_the_models(repository: Path, script: str) -> None:
    more = ["me"] if script == "push" else []
    done = call(repository / "script" / script, "three-files", *more, cwd=repository)
    assert done.returncode == 2
    assert "one-file" in done.stderr
    assert "several-files" in done.stderr


def test_an_expression_that_no_test_has_in_its_name_is_reported_without_a_collection() -> None:
    done = call(sys.executable, ROOT / "script" / "test", "-k", "sizes"[::-1] * 2, cwd=ROOT)
    assert (done.returncode, done.stdout) == (5, "")  # pytest's status for no tests
    assert done.stderr.endswith(": no test has such a name\n")


def test_bench_without_a_name_lists_each_benchmark_with_how_long_it_takes() -> None:
    rows = call(sys.executable, ROOT / "script" / "bench", cwd=ROOT).stdout.splitlines()
    assert {"api", "encode", *models("demo-weights")} <= {row.split()[0] for row in rows}
    assert all(re.search(r" \d+ (seconds|minutes|hours?) ", row) for row in rows)


@pytest.mark.parametrize("command", [["bench", "encode"], ["gallery", "zeroscope"], ["lint"]], ids=" ".join)
def test_ctrl_c_ends_a_script_with_one_line(command: list[str], tmp_path: Path) -> None:
    to = ["--to", str(tmp_path)] if command[0] == "gallery" else []
    with terminal(ROOT / "script" / command[0], *command[1:], *to, STARTED_BY=str(tmp_path)) as shown:
        time.sleep(2)  # at work
        shown.press(CTRL_C)
        assert shown.status() == 130
    assert (shown.lines()[-2], "Traceback" in shown.screen) == ("stopped", False)
    wait_until_ended(f"STARTED_BY={tmp_path}")
