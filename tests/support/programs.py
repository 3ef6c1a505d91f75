"""Programs that some tests need. Without them these tests are skipped, and fail in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(program: str) -> str:
    """Return the path of a program. Without it, skip the test, or fail the test if CI is set."""
    path = shutil.which(program)
    if path is None:
        reason = f"{program} is not installed; .ci/run installs it with apt"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
