"""Runs a script in the environment of script/setup: each starts with `in_environment()`. Supports Python 3.8."""

import os
import runpy
import signal
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from terminal import SIGNALS, end_quietly
from tree import ROOT, models

PYTHON = ROOT / ".venv" / "bin" / "python"
STAMP = ROOT / ".venv" / "made-from"  # has the fingerprint of what is installed


def in_environment() -> None:
    """Put the models' packages on the path. In a Python outside the environment, run the script again in it.

    From here on, Ctrl-C and other signals end the script with one line.
    """
    end_quietly()
    if Path(sys.prefix).resolve() == (ROOT / ".venv").resolve():
        sys.path[:0] = [str(ROOT / model) for model in models()]
        return
    if is_stale():
        runpy.run_path(str(ROOT / "script" / "setup"))["main"]()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode files, every start would compile torch again
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the new Python calls `end_quietly`
    os.execv(PYTHON, [str(PYTHON), *sys.argv])


def fingerprint() -> str:
    """Return a checksum of lock/, of script/setup and of the repository's path."""
    files = [ROOT / "script" / "setup", *sorted(ROOT.glob("lock/*.txt"))]
    return str(zlib.crc32(b"".join([bytes(ROOT), *(path.read_bytes() for path in files)])))


def is_stale() -> bool:
    """Return whether script/setup has to update the environment."""
    return not (PYTHON.exists() and STAMP.exists() and STAMP.read_text() == fingerprint())
