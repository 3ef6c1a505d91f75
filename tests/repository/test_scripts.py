"""Specification of all scripts: --help, unknown models, the environment, and calls through a link."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
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


@pytest.mark.parametrize("command", ["bench encode --misspelt 3", "serve --misspelt", "serve one-file --port 99999"])
def test_options_of_a_part_of_a_script_are_refused_too(command: str, changed_repository: Path) -> None:
    (changed_repository / ".venv" / "made-from").unlink()  # the next script would make the environment
    script, *arguments = command.split()
    done = call(changed_repository / "script" / script, *arguments, cwd=changed_repository)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert not (changed_repository / ".venv" / "made-from").exists()


@pytest.mark.parametrize("command", ["bench", "bench encode --help", "mutations --list", "serve --help", "sbom --help"])
def test_what_is_printed_before_there_is_an_environment_ends_quietly_in_a_closed_pipe(command: str) -> None:
    script, *arguments = command.split()
    process = subprocess.Popen(
        [ROOT / "script" / script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


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


@pytest.mark.parametrize("processes", ["0", "2"])
def test_ctrl_c_ends_the_tests_and_their_processes(processes: str, tmp_path: Path) -> None:
    arguments = ["-n", processes, "tests/repository/test_setup.py"]
    with terminal(ROOT / "script" / "test", *arguments, STARTED_BY=str(tmp_path), NO_COLOR="1") as shown:
        shown.wait_for("2 workers [" if processes == "2" else "test_setup.py")
        shown.press(CTRL_C)
        assert shown.status() == 130, shown.screen
    assert "Traceback" not in shown.screen
    wait_until_ended(f"STARTED_BY={tmp_path}")


def test_an_expression_that_no_test_has_in_its_name_is_reported_without_a_collection() -> None:
    done = call(sys.executable, ROOT / "script" / "test", "-k", "sizes"[::-1] * 2, cwd=ROOT)
    assert (done.returncode, done.stdout) == (5, "")  # pytest's status for no tests
    assert done.stderr.endswith(": no test has such a name\n")


def test_bench_without_a_name_lists_each_benchmark_with_how_long_it_takes() -> None:
    rows = call(sys.executable, ROOT / "script" / "bench", cwd=ROOT).stdout.splitlines()
    assert {"api", "encode", *models("demo-weights")} <= {row.split()[0] for row in rows}
    assert all(re.search(r" \d+ (seconds|minutes|hours?) ", row) for row in rows)


@pytest.mark.parametrize(
    ("command", "work"),
    [("bench encode", "machine: "), ("gallery zeroscope", "denoise"), ("lint", "ruff")],  # what it shows at work
    ids=["bench", "gallery", "lint"],
)
def test_ctrl_c_ends_a_script_with_one_line(command: str, work: str, tmp_path: Path) -> None:
    script, *arguments = command.split()
    to = ["--to", str(tmp_path)] if script == "gallery" else []
    with terminal(ROOT / "script" / script, *arguments, *to, STARTED_BY=str(tmp_path)) as shown:
        shown.wait_for(work)
        shown.press(CTRL_C)
        assert shown.status() == 130
    assert (shown.lines()[-2], "Traceback" in shown.screen) == ("stopped", False)
    wait_until_ended(f"STARTED_BY={tmp_path}")
