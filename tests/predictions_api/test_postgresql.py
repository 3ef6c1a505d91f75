"""Servers that share one PostgreSQL: each answers for all, and what one leaves another takes over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from api_server import ApiServer, CogProcess


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres.cluster() as url:
        yield url


@pytest.fixture(scope="module")
def cog() -> Iterator[str]:
    with CogProcess("text") as process:
        yield process.url


def test_a_prediction_made_on_one_server_is_seen_waited_for_and_canceled_on_another(
    database: str, cog: str, tmp_path: Path
) -> None:
    urls = {"text": [cog]}
    with (
        ApiServer(tmp_path / "a", models=["text"], urls=urls, database=database) as first,
        ApiServer(tmp_path / "b", models=["text"], urls=urls, database=database) as second,
    ):
        done = first.create("text", wait=True, text="\u0000 NUL is no PostgreSQL text")
        assert done["status"] == "succeeded", done
        assert second.get(done["id"])["output"] == done["output"]
        running = first.create("text", sleep=60)["id"]
        second.until(running, "processing")
        assert second.http.post(f"/predictions/{running}/cancel").json()["status"] == "canceled"
        assert second.create("text", wait=True, text="next")["output"] == "next"
        assert first.problems() == second.problems() == []


def test_when_one_of_two_servers_is_killed_nothing_is_lost_and_nothing_runs_twice_unsaid(
    database: str, cog: str, tmp_path: Path
) -> None:
    urls = {"text": [cog]}
    runs, go = tmp_path / "runs", tmp_path / "go"
    first = ApiServer(tmp_path / "a", models=["text"], urls=urls, database=database)
    with first, ApiServer(tmp_path / "b", models=["text"], urls=urls, database=database) as second:
        running = first.create("text", text="running", mark=str(runs), hold=str(go))["id"]
        while not runs.exists():
            time.sleep(0.02)
        queued = [first.create("text", text=str(number), mark=str(runs))["id"] for number in range(10)]
        # Either server may have taken the one that runs: kill that one.
        log = "given to"
        dead, alive = (
            (first, second)
            if f'"{running}"' in "".join(line for line in first.log.read_text().splitlines() if log in line)
            else (second, first)
        )
        dead.kill()
        go.touch()
        for prediction_id in [running, *queued]:
            assert alive.until(prediction_id)["status"] == "succeeded"
        again = alive.get(running)
        assert alive.problems() == []
    assert again["logs"].startswith("The server stopped while this prediction was running; it is run again.\n")
    assert sorted(runs.read_text().split()) == sorted(["running", "running", *map(str, range(10))])
