"""Programs that some tests need besides Python: skipped with a reason where one is missing, never in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(program: str) -> str:
    """Return the path of `program`; skip the test without it, or fail it where CI is set (.ci/run installs it)."""
    found = shutil.which(program)
    if found is None:
        reason = f"{program} is not on this machine; .ci/run installs it with apt"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
