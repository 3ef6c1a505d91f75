"""Runs a script in the environment that script/setup makes, made or brought up to date first where it has to be.

A script begins with `from _bootstrap import in_environment` and `in_environment()`. This module and tools/tree.py run
under any Python from 3.8 on and need no package.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from tree import ROOT, models

ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "made-from"  # what script/setup made the environment from


def in_environment() -> None:
    """Return, with the models' packages on the path, if this Python is the environment's; else run the script in it."""
    if Path(sys.prefix).resolve() == ENVIRONMENT.resolve():
        sys.path[:0] = [str(ROOT / model) for model in models()]
        return
    if is_stale():
        code = subprocess.run([sys.executable, str(ROOT / "script" / "setup")], check=False).returncode
        if code:
            sys.exit(code)
    os.execv(PYTHON, [str(PYTHON), *sys.argv])


def fingerprint() -> str:
    """Hash what an environment is made from: the requirements, this script/setup, and where the tree lies."""
    digest = hashlib.sha256(str(ROOT).encode())
    ours = [ROOT / "script" / "setup", ROOT / "script" / "cpu_torch.py", ROOT / "pyproject.toml"]
    needs = [*sorted(ROOT.glob("*/requirements.txt")), *sorted(ROOT.glob("shared/*/pyproject.toml"))]
    for path in [*ours, *needs]:
        digest.update(f"\n{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def is_stale() -> bool:
    """Tell whether script/setup has something to do."""
    made_from = STAMP.read_text() if STAMP.exists() else ""
    return made_from != fingerprint() or not PYTHON.exists()
