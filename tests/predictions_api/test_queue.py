"""The queue in front of a model: its order, its end, several Cog servers, and what is kept for how long."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from api_server import VERSIONS, ApiServer, CogProcess
from predictions_api.__main__ import BaseServer
from uvicorn.protocols.http.h11_impl import H11Protocol


def test_first_come_first_served_and_cogs_409_reaches_nobody(server: ApiServer, tmp_path: Path) -> None:
    mark, go = tmp_path / "mark", tmp_path / "go"
    first = server.create("text", hold=str(go))["id"]
    queued = [server.create("text", text=str(number), mark=str(mark))["id"] for number in range(8)]
    go.touch()
    assert [server.wait_for(found)["status"] for found in [first, *queued]] == ["succeeded"] * 9
    assert mark.read_text().split() == [str(number) for number in range(8)]


def test_many_clients_at_once_are_all_served(server: ApiServer) -> None:
    with ThreadPoolExecutor(12) as clients:
        done = list(clients.map(lambda number: server.create("text", wait=True, text=str(number)), range(24)))
    assert [body["output"] for body in done] == [str(number) for number in range(24)]


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text"], queue_limit=2) as server:
        running = server.create("text", hold=str(tmp_path / "go"))["id"]
        server.wait_for(running, "processing")
        queued = [server.create("text")["id"] for _ in range(2)]
        answer = server.http.post("/predictions", json={"version": VERSIONS["text"], "input": {}})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) == answer.json()["retry_after"] > 0
        # The words that Replicate's documentation of rate limits has, which clients look for.
        assert answer.json()["detail"].startswith("Request was throttled.")
        server.http.post(f"/predictions/{queued[0]}/cancel")
        server.create("text")


def test_several_cog_servers_share_a_models_queue(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with (
        CogProcess("text") as one,
        CogProcess("text") as other,
        ApiServer(tmp_path, models=["text"], urls={"text": [one.url, other.url]}) as server,
    ):
        both = [server.create("text", hold=str(go))["id"] for _ in range(2)]
        for prediction_id in both:  # at the same time
            server.wait_for(prediction_id, "processing")
        third = server.create("text", text="third")["id"]
        go.touch()
        assert server.wait_for(third)["output"] == "third"
        assert server.logged_errors() == []


def test_data_is_removed_when_its_time_is_over(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text", "file"], keep=2) as server:
        body = server.create("file", wait=True)
        url = server.get(body["id"])["output"]
        assert server.http.get(url).text == "abc"
        for _ in range(500):
            after = server.get(body["id"])
            if after["data_removed"]:
                break
            time.sleep(0.02)
        # OpenAPI, predictions.get: input, output and logs are removed; "The `output` key will still be present".
        assert (after["data_removed"], after["output"], after["input"], after["logs"]) == (True, None, {}, "")
        assert after["status"] == "succeeded"
        assert server.http.get(url).status_code == 404


def test_a_locked_database_is_a_503_with_nothing_half_written(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text"]) as server:
        server.create("text", wait=True)
        lock = sqlite3.connect(tmp_path / "data" / "predictions.sqlite", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        answer = server.http.post("/predictions", json={"version": VERSIONS["text"], "input": {}})
        assert (answer.status_code, answer.json()["status"]) == (503, 503)
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["detail"] == "The database cannot be used now"
        assert "locked" in server.log.read_text()
        assert len(server.http.get("/predictions").json()["results"]) == 1  # readers wait for no writer
        lock.execute("ROLLBACK")
        lock.close()
        assert server.create("text", wait=True)["status"] == "succeeded"
        assert len(server.http.get("/predictions").json()["results"]) == 2


def test_a_locked_queue_delays_a_prediction_and_loses_none(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text"]) as server:
        lock = sqlite3.connect(tmp_path / "data" / "queue.sqlite", isolation_level=None, check_same_thread=False)
        lock.execute("BEGIN IMMEDIATE")
        threading.Timer(7.0, lock.execute, ["ROLLBACK"]).start()  # the server gives up after 5 s, and tries again
        created = server.create("text", text="late")
        assert server.wait_for(created["id"])["output"] == "late"
        lock.close()


def test_a_full_disk_is_a_503_with_nothing_half_written(tmp_path: Path) -> None:
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


def test_a_cog_server_killed_mid_prediction_fails_that_one_clearly_and_the_next_works(server: ApiServer) -> None:
    body = server.wait_for(server.create("text", end="crash")["id"])
    assert body["status"] == "failed"
    assert body["error"].startswith("Prediction interrupted: the Cog server at http://127.0.0.1:")
    assert server.create("text", wait=True, text="next")["output"] == "next"


def test_a_server_told_to_stop_leaves_no_process_and_runs_on_at_its_next_start(tmp_path: Path) -> None:
    server = ApiServer(tmp_path, models=["text", "words"])
    with server:
        runs, go = tmp_path / "runs", tmp_path / "go"
        running = server.create("text", mark=str(runs), hold=str(go), text="again")["id"]
        words = server.create("words", text="a " * 600, sleep=0.1)["id"]
        queued = server.create("text", text="later")["id"]
        for attempt in (1, 2):  # two deaths would fail it
            while not runs.exists() or len(runs.read_text().split()) < attempt:
                time.sleep(0.02)
            server.stop(signal.SIGTERM)
            assert server.logged_errors() == []
            if attempt == 2:
                # The model has changed, so its newest version has another id; and the other model is served no more.
                config, _, _ = server.config.read_text().replace(VERSIONS["text"], "9" * 64).rpartition("[[models]]")
                server.config.write_text(config)
                go.touch()
            server.start()
        assert [server.wait_for(found)["output"] for found in (running, queued)] == ["again", "later"]
        assert server.get(running)["logs"].startswith("The server stopped while this prediction was running;")
        assert server.wait_for(words)["error"] == "The model test/words is not served any more"


def test_a_connection_that_is_being_accepted_as_the_server_stops_does_not_hold_it_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Accepted(H11Protocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            accepted.append(self)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nothing was asked")

    async def connect_and_stop() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(app, http=Accepted, lifespan="off", log_config=None, timeout_graceful_shutdown=2)
            server = BaseServer(config)
            serving = asyncio.create_task(server.serve([listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            with socket.create_connection(listener.getsockname()):
                while not accepted:  # one turn of the loop later the server would know of it
                    await asyncio.sleep(0)
                assert not server.server_state.connections
                await server.shutdown([listener])
                assert not server.server_state.connections
            server.should_exit = True
            await serving

    accepted: list[Accepted] = []
    asyncio.run(connect_and_stop())
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_second_server_on_the_same_sqlite_is_refused_with_the_reason(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text"]):
        second = ApiServer(tmp_path, models=["text"])
        with pytest.raises(RuntimeError, match=r"another server uses .*--database"):
            second.start()
