"""script/predict and script/serve of a repository, as a user calls them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def predict(
    repository: Path, cwd: Path, *arguments: str, stdin: str = "", status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run script/predict in the directory `cwd`. It must end with `status`."""
    command = [str(repository / "script" / "predict"), *arguments]
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


@contextlib.contextmanager
def serving(
    repository: Path, *arguments: str, stderr: int = subprocess.PIPE
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield a running script/serve and its address."""
    command = [sys.executable, repository / "script" / "serve", *arguments, "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().partition(" is ready at ")[2].split()[0]
        finally:
            process.terminate()
