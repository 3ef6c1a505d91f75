"""What tests of several places use, made once."""

from __future__ import annotations

from pathlib import Path

import hostile_videos
import pytest


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every file of hostile_videos.TABLE."""
    folder = tmp_path_factory.mktemp("hostile")
    hostile_videos.write_all(folder)
    return folder
