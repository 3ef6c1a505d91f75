"""Specification of the workflows: each step one script, every action pinned. script/lint checks GitHub's schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tree import ROOT

CI, PUSH = WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())


def load(path: Path) -> dict[str, Any]:
    # BaseLoader reads `on` as a text, not as a boolean
    workflow: dict[str, Any] = yaml.load(path.read_text(), yaml.BaseLoader)
    return workflow


def jobs_of(path: Path) -> dict[str, dict[str, Any]]:
    jobs: dict[str, dict[str, Any]] = load(path)["jobs"]
    return jobs


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_permissions_are_read_only_and_every_job_has_a_time_limit(path: Path) -> None:
    assert load(path)["permissions"] == {"contents": "read"}
    assert "concurrency" in load(path)
    for job in jobs_of(path).values():
        assert "permissions" not in job
        assert int(job["timeout-minutes"]) <= 120


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_step_is_one_script_of_ours_or_a_pinned_action(path: Path) -> None:
    for job in jobs_of(path).values():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
            else:
                script, *_ = step["run"].split()
                assert re.match(r"(script|\.ci)/", script)
                assert (ROOT / script).is_file()
                # one line; inputs of a workflow come in as variables
                assert "\n" not in step["run"].strip()
                assert "${{" not in step["run"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_pin_says_its_version(path: Path) -> None:
    for line in path.read_text().splitlines():
        if "uses:" in line:
            assert re.search(r"@[0-9a-f]{40} # (of )?v\d", line)


def test_ci_runs_all_tests_on_three_pythons_and_lints() -> None:
    ci = jobs_of(CI)
    assert ci["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert ci["test"]["steps"][-1]["run"] == ".ci/run"
    assert ci["lint"]["steps"][-1]["run"] == "script/lint"


def test_push_is_started_by_hand_for_any_model_and_pushes_nothing_by_default() -> None:
    push = load(PUSH)
    assert list(push["on"]) == ["workflow_dispatch"]
    inputs = push["on"]["workflow_dispatch"]["inputs"]
    assert inputs["model"]["default"] == "all"
    assert inputs["no_push"]["default"] == "true"
    steps = push["jobs"]["push"]["steps"]
    assert [step["run"].split()[0] for step in steps if "run" in step] == ["script/push", "script/push"]
    assert {step["if"]: "--dry-run" in step["run"] for step in steps if "if" in step} == {
        "${{ inputs.no_push }}": True,
        "${{ ! inputs.no_push }}": False,
    }
