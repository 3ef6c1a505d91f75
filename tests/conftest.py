"""Fixtures that tests of several directories share."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import hostile_videos
import pytest
from playwright.sync_api import Browser, sync_playwright
from programs import needs
from tree import ROOT, models
from two_models import make_repository
from xdist.scheduler import LoadScopeScheduling

sys.path += [str(ROOT / model) for model in models()]

# Files that share servers of the models, and then the files that take longest. They start first.
FIRST = (
    "tests/playground/",
    "tests/end_to_end/test_(again_from|animate_diff|examples|numbers|random_inputs|sd_animation|zeroscope)",
    "tests/predictions_api/test_queue",
    "tests/end_to_end/test_meaning",
    "tests/tools/benchmarks/test_gpu",
    "tests/repository/test_new_model",
    "tests/videokit/video/test_encode",
)


def group_of(test: str) -> str:
    """Return the pattern of FIRST that a test's id matches, or else its file."""
    return next((pattern for pattern in FIRST if re.match(pattern, test)), test.partition("::")[0])


class Scheduler(LoadScopeScheduling):
    """Runs the tests of a group in one process, so that they share their fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduler:
    return Scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: [*FIRST, group_of(item.nodeid)].index(group_of(item.nodeid)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window. While it runs, asyncio.run cannot be called."""
    program = needs("chromium-headless-shell")
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
