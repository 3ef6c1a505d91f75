"""Whether tests can have a name, without the seconds that pytest takes to import them. Supports Python 3.8."""

from __future__ import annotations

import re
import shutil
import subprocess

from tree import ROOT


def may_match(expression: str) -> bool:
    """Return whether a test may have a name that `pytest -k` selects by an expression.

    Every name has its words from a file of the repository: the functions, or the values of their parameters.
    """
    words = {word.rstrip("0123456789") for word in re.findall(r"\w+", expression)} - {"and", "or"}
    if not words or "" in words or "not" in words or not shutil.which("git"):
        return True
    files = _git("ls-files", "--cached", "--others", "--exclude-standard")
    texts = _git("grep", "--untracked", "-qiF", *(f"-e{word}" for word in words))
    names = files.stdout.lower()
    return files.returncode != 0 or texts.returncode == 0 or any(word.lower() in names for word in words)


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
