"""Fixtures that tests of several directories share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import hostile_videos
import pytest
from playwright.sync_api import Browser, sync_playwright
from programs import needs
from tree import ROOT, models
from two_models import make_repository

sys.path += [str(ROOT / model) for model in models()]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium. While it runs, asyncio.run cannot be called."""
    program = needs("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with every file of hostile_videos.TABLE."""
    folder = tmp_path_factory.mktemp("hostile")
    hostile_videos.write_all(folder)
    return folder


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with two small models, whose path contains a space."""
    return make_repository(tmp_path_factory.mktemp("repository") / "with space")


@pytest.fixture
def changed_repository(tmp_path: Path) -> Path:
    """Return a repository that one test may change."""
    return make_repository(tmp_path / "repository")
