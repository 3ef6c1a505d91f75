"""Runs a script in the environment that script/setup makes or updates first if necessary.

Each script starts with `from _bootstrap import in_environment` and `in_environment()`. This module and tools/tree.py
support Python 3.8 and newer and need no package.
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
STAMP = ENVIRONMENT / "made-from"  # has the fingerprint of the requirements that are installed


def in_environment() -> None:
    """Put the models' packages on the path. In a Python outside the environment, run the script again in it."""
    if Path(sys.prefix).resolve() == ENVIRONMENT.resolve():
        sys.path[:0] = [str(ROOT / model) for model in models()]
        return
    setup = [sys.executable, str(ROOT / "script" / "setup")]
    if is_stale() and (code := subprocess.run(setup, check=False).returncode):
        sys.exit(code)
    os.execv(PYTHON, [str(PYTHON), *sys.argv])


def fingerprint() -> str:
    """Return a hash of the requirements, of script/setup and of the repository's path."""
    digest = hashlib.sha256(str(ROOT).encode())
    sources = "script/setup", "script/cpu_torch.py", "pyproject.toml", "*/requirements.txt", "shared/*/pyproject.toml"
    for path in [path for pattern in sources for path in sorted(ROOT.glob(pattern))]:
        digest.update(f"\n{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def is_stale() -> bool:
    """Return whether script/setup has to update the environment."""
    installed = STAMP.read_text() if STAMP.exists() else ""
    return installed != fingerprint() or not PYTHON.exists()
