"""The queue of a model: order, limit, several Cog servers, failures and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
import uvicorn
from api_server import VERSIONS, ApiServer, cog_server, wait_for_runs, wait_until
from predictions_api.__main__ import BaseServer
from predictions_api.run.engine import Waker, _sqlite_engine
from uvicorn.protocols.http.h11_impl import H11Protocol

NOWHERE = "http://127.0.0.1:9"  # the discard port, where nothing listens


def test_predictions_run_in_the_order_of_their_creation(server: ApiServer, tmp_path: Path) -> None:
    mark, go = tmp_path / "mark", tmp_path / "go"
    first = server.create("text", hold=str(go))["id"]
    queued = [server.create("text", text=str(number), mark=str(mark))["id"] for number in range(8)]
    go.touch()
    # Cog answers 409 when it is busy, which must not fail a prediction.
    assert [server.wait_for(prediction_id)["status"] for prediction_id in [first, *queued]] == ["succeeded"] * 9
    assert mark.read_text().split() == [str(number) for number in range(8)]


def test_predictions_of_many_simultaneous_clients_all_succeed(server: ApiServer) -> None:
    with ThreadPoolExecutor(12) as clients:
        bodies = list(clients.map(lambda number: server.create("text", wait=True, text=str(number)), range(24)))
    assert [body["output"] for body in bodies] == [str(number) for number in range(24)]


def test_a_create_to_a_full_queue_is_429_with_retry_after(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text"], queue_limit=2) as server:
        running = server.create("text", hold=str(tmp_path / "go"))["id"]
        server.wait_for(running, "processing")
        queued = [server.create("text")["id"] for _ in range(2)]
        answer = server.http.post("/predictions", json={"version": VERSIONS["text"], "input": {}})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) == answer.json()["retry_after"] > 0
        # Clients look for this text of Replicate's documentation of rate limits.
        assert answer.json()["detail"].startswith("Request was throttled.")
        server.http.post(f"/predictions/{queued[0]}/cancel")
        server.create("text")


def test_several_cog_servers_serve_the_queue_of_a_model(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with (
        cog_server("text") as first_cog,
        cog_server("text") as second_cog,
        ApiServer(tmp_path, models=["text"], urls={"text": [NOWHERE, first_cog.url, second_cog.url]}) as server,
    ):
        running = [server.create("text", hold=str(go))["id"] for _ in range(2)]
        for prediction_id in running:  # both at the same time
            server.wait_for(prediction_id, "processing")
        third = server.create("text", text="third")["id"]
        go.touch()
        assert server.wait_for(third)["output"] == "third"
        assert server.logged_errors() == []


def test_the_data_of_a_prediction_is_removed_after_keep_seconds(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["file"], keep=3600) as server:
        body = server.create("file", wait=True)
        path = urlsplit(server.get(body["id"])["output"]).path.removeprefix("/v1")
        assert server.http.get(path).text == "abc"
        server.stop()
        server.config.write_text(server.config.read_text().replace("keep = 3600", "keep = 0.1"))
        server.execute("UPDATE files SET expires_at = created_at + 1")
        server.start()
        wait_until(lambda: server.get(body["id"])["data_removed"])
        after = server.get(body["id"])
        # OpenAPI, predictions.get: input, output and logs are removed; "The `output` key will still be present".
        assert (after["output"], after["input"], after["logs"]) == (None, {}, "")
        assert after["status"] == "succeeded"
        assert server.http.get(path).status_code == 404


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock for writing of a SQLite database."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def test_a_create_with_a_locked_database_is_503_and_records_nothing(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text"]) as server:
        server.create("text", wait=True)
        with locked(tmp_path / "data" / "predictions.sqlite"):
            answer = server.http.post("/predictions", json={"version": VERSIONS["text"], "input": {}})
            assert (answer.status_code, answer.json()["status"]) == (503, 503)
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["detail"] == "The database cannot be used now"
            assert "locked" in server.log.read_text()
            assert len(server.http.get("/predictions").json()["results"]) == 1  # a read does not wait for a writer
        assert server.create("text", wait=True)["status"] == "succeeded"
        assert len(server.http.get("/predictions").json()["results"]) == 2


def test_a_locked_queue_database_delays_predictions_but_neither_answers_nor_cancels(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text"]) as server:
        # No answer waits for the end of the lock, which is after the answers.
        with locked(tmp_path / "data" / "queue.sqlite"):
            late, canceled = (server.create("text", text="late")["id"] for _ in range(2))
            assert server.http.post(f"/predictions/{canceled}/cancel").json()["status"] == "canceled"
            # the queue fails after 5 s
            wait_until(lambda: "INSERT INTO main.workflow_status" in server.log.read_text())
            assert server.get(late)["status"] == "starting"
        assert server.wait_for(late)["output"] == "late"
        assert len(server.http.get("/predictions").json()["results"]) == 2


def test_a_create_with_a_full_disk_is_503_and_records_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("mounting a small disk needs root and CAP_SYS_ADMIN")
    try:
        with ApiServer(tmp_path, models=["text"], data=str(disk / "data")) as server:
            server.create("text", wait=True)
            with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
                while filler.write(b"0" * 4096):
                    pass
            answer = server.http.post(
                "/predictions", json={"version": VERSIONS["text"], "input": {"text": "x" * 500_000}}
            )
            assert answer.status_code == 503
            (disk / "filler").unlink()
            assert server.create("text", wait=True)["status"] == "succeeded"
            assert len(server.http.get("/predictions").json()["results"]) == 2
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_cog_server_killed_during_a_prediction_fails_it_and_the_next_one_runs(server: ApiServer) -> None:
    body = server.wait_for(server.create("text", end="crash")["id"])
    assert body["status"] == "failed"
    assert body["error"].startswith("Prediction interrupted: the model's Cog server ended while it ran")
    assert server.create("text", wait=True, text="next")["output"] == "next"


def test_running_and_queued_predictions_end_after_two_restarts(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text", "words"]) as server:
        runs, go = tmp_path / "runs", tmp_path / "go"
        running = server.create("text", mark=str(runs), hold=str(go), text="again")["id"]
        words = server.create("words", text="a " * 600, sleep=0.1)["id"]
        queued = server.create("text", text="later")["id"]
        for attempt in (1, 2):  # two kills would fail the running one
            wait_for_runs(runs, attempt)
            server.stop(signal.SIGTERM)
            assert server.logged_errors() == []
            if attempt == 2:
                # Change the version of the first model, and remove the second one from the configuration.
                config, _, _ = server.config.read_text().replace(VERSIONS["text"], "9" * 64).rpartition("[[models]]")
                server.config.write_text(config)
                go.touch()
            server.start()
        assert [server.wait_for(prediction_id)["output"] for prediction_id in (running, queued)] == ["again", "later"]
        logs = server.get(running)["logs"].removeprefix("starting text ...\n")
        assert logs.startswith("The server stopped while this prediction was running;")
        assert server.wait_for(words)["error"] == "The model test/words is not served any more"


def test_a_connection_accepted_during_shutdown_does_not_delay_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Accepted(H11Protocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            accepted.append(self)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("no request was sent")

    async def connect_and_stop() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(app, http=Accepted, lifespan="off", log_config=None, timeout_graceful_shutdown=60)
            server = BaseServer(config)
            serving = asyncio.create_task(server.serve([listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            with socket.create_connection(listener.getsockname()):
                while not accepted:  # one iteration of the loop later the server would list it
                    await asyncio.sleep(0)
                assert not server.server_state.connections
                await server.shutdown([listener])
                assert not server.server_state.connections
            server.should_exit = True
            await serving

    accepted: list[Accepted] = []
    asyncio.run(connect_and_stop())
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_the_logs_say_that_a_model_starts_and_the_model_shows_its_status(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with ApiServer(tmp_path, models=["text"], start_when=go) as server:

        def worker_status() -> str:
            return str(server.http.get("/models/test/text").json()["worker_status"])

        assert worker_status() == "cold"
        created = server.create("text")["id"]
        while server.get(created)["logs"] != "starting text ...\n":
            assert server.get(created)["status"] == "starting"
        while worker_status() != "starting":
            assert server.get(created)["status"] == "starting"
        go.touch()
        assert server.wait_for(created)["logs"] == "starting text ...\ntext: hello\n"
        assert worker_status() == "ready"


def test_the_queues_database_has_the_time_that_dbos_asks_for_also_in_an_older_sqlite(tmp_path: Path) -> None:
    engine = _sqlite_engine(tmp_path / "queue.sqlite")
    with engine.begin() as connection:
        # As in DBOS 3.4.0 with Python 3.12+. Without its modifier, which SQLite has since 3.42, the result is null.
        connection.execute(sa.text("CREATE TABLE versions (at INTEGER NOT NULL DEFAULT (unixepoch('subsec') * 1000))"))
        connection.execute(sa.text("INSERT INTO versions DEFAULT VALUES"))
        milliseconds = connection.scalar(sa.text("SELECT at FROM versions"))
    engine.dispose()
    assert milliseconds == pytest.approx(time.time() * 1000, abs=60_000)


def test_a_queue_is_polled_at_its_interval_also_after_two_servers_polled_at_once() -> None:
    assert not Waker(0.01).wait(threading.TIMEOUT_MAX)  # DBOS asks for up to two minutes
