"""Specification of script/release, in a repository with two small models."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tree import ROOT

CHANGES = "# Changelog\n\n## [Unreleased]\n\n### Added\n- A thing.\n\n## [0.0.1] - 2020-01-01\n- Older.\n"


@pytest.fixture
def repository(changed_repository: Path) -> Path:
    (changed_repository / "CHANGELOG.md").write_text(CHANGES)
    shutil.copy(ROOT / "CITATION.cff", changed_repository)
    shutil.copytree(ROOT / "deploy", changed_repository / "deploy")
    return changed_repository


def release(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(repository / "script" / "release"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_release_has_one_version_everywhere(repository: Path) -> None:
    done = release(repository, "7.8.9", "--date", "2026-12-24")
    assert done.returncode == 0, done.stderr
    for name in ("videokit", "predictions-api"):
        assert '\nversion = "7.8.9"\n' in (repository / "shared" / name / "pyproject.toml").read_text()
    assert '__version__ = "7.8.9"' in (repository / "shared/videokit/src/videokit/__init__.py").read_text()
    assert (repository / "one-file/one_file/__init__.py").read_text() == '__version__ = "7.8.9"\n'
    assert (repository / "one-file/requirements.txt").read_text() == "./wheels/videokit-7.8.9-py3-none-any.whl\n"
    assert (repository / "one-file/wheels/videokit-7.8.9-py3-none-any.whl").exists()
    kustomization = (repository / "deploy/kubernetes/kustomization.yaml").read_text()
    assert re.findall(r'newTag: "(.+)"', kustomization) == ["7.8.9"] * 4
    assert re.findall(r"^(?:version|date-released): (.+)", (repository / "CITATION.cff").read_text(), re.MULTILINE) == [
        "7.8.9",
        "2026-12-24",
    ]


def test_the_unreleased_changes_get_the_version_and_the_date(repository: Path) -> None:
    release(repository, "7.8.9", "--date", "2026-12-24")
    heading = "## [Unreleased]\n\n## [7.8.9] - 2026-12-24\n"
    assert (repository / "CHANGELOG.md").read_text() == CHANGES.replace("## [Unreleased]\n", heading)


@pytest.mark.parametrize("version", ["7.8", "v7.8.9", "07.8.9"])
def test_an_invalid_version_is_refused(repository: Path, version: str) -> None:
    assert release(repository, version).returncode == 2


@pytest.mark.parametrize("date", ["2026-13-01", "2026-02-30", "tomorrow", "20261224"])
def test_an_invalid_date_is_refused_with_the_format(repository: Path, date: str) -> None:
    done = release(repository, "7.8.9", "--date", date)
    assert done.returncode == 2
    assert f"{date!r} is not a day; write YYYY-MM-DD" in done.stderr


def test_a_version_below_the_last_release_is_refused(repository: Path) -> None:
    done = release(repository, "0.0.0")
    assert (done.returncode, (repository / "CHANGELOG.md").read_text()) == (1, CHANGES)
    assert "release 0.0.1 already; give a higher version" in done.stderr


def test_a_second_release_without_changes_is_refused(repository: Path) -> None:
    assert release(repository, "7.8.9").returncode == 0
    assert "[Unreleased]" in release(repository, "7.8.10").stderr
    assert "already" in release(repository, "7.8.9").stderr
