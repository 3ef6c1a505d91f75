"""Servers that share a PostgreSQL database: requests to either, and takeover of predictions."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor as Threads
from pathlib import Path
from typing import Any

import postgres
import pytest
import sqlalchemy as sa
from api_server import ApiServer, wait_for_runs, wait_until
from predictions_api.run import heartbeat
from predictions_api.store.database import Database, predictions

NewServer = Callable[..., ApiServer]


@pytest.fixture
def database(postgresql: str) -> str:
    return postgres.new_database(postgresql)


@pytest.fixture
def new_server(database: str, cog: str, tmp_path: Path) -> NewServer:
    """Return a function that makes a server of the database and of one Cog server of the model `text`."""
    return lambda name, models=("text",), **settings: ApiServer(
        tmp_path / name, models=models, urls={"text": [cog]}, database=database, **settings
    )


def query_value(database: str, query: str) -> Any:
    with postgres.connect(database) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_a_prediction_created_on_one_server_is_read_and_canceled_on_another(
    database: str, new_server: NewServer
) -> None:
    with (
        new_server("a", models=["text", "words"]) as first,
        new_server("b") as second,
    ):
        words = [first.create("words")["id"] for _ in range(8)]  # a model that the second server does not have
        succeeded = first.create("text", wait=True, text="\u0000 PostgreSQL refuses NUL")
        assert succeeded["status"] == "succeeded", succeeded
        assert second.get(succeeded["id"])["output"] == succeeded["output"]
        running = first.create("text", sleep=60)["id"]
        second.wait_for(running, "processing")
        assert second.http.post(f"/predictions/{running}/cancel").json()["status"] == "canceled"
        assert second.create("text", wait=True, text="next")["output"] == "next"
        assert [second.wait_for(prediction_id)["status"] for prediction_id in words] == ["succeeded"] * 8
        first.stop()
        second.stop()
        assert first.logged_errors() == second.logged_errors() == []
    # Both have signed off, so that another server would take over immediately.
    assert query_value(database, "SELECT count(*) FROM servers WHERE seen_at > now() - interval '10 s'") == 0


def test_predictions_of_two_servers_run_in_the_order_of_their_creation(database: str, cog: str, tmp_path: Path) -> None:
    urls = {"text": [cog]}
    runs, go = tmp_path / "runs", tmp_path / "go"
    with (
        ApiServer(tmp_path / "a", models=["text"], urls=urls, database=database) as first,
        ApiServer(tmp_path / "b", models=["text"], urls=urls, database=database),
    ):
        first.create("text", hold=str(go))
        queued = [first.create("text", text=str(number), mark=str(runs))["id"] for number in range(8)]
        go.touch()
        assert [first.wait_for(prediction_id)["status"] for prediction_id in queued] == ["succeeded"] * 8
    assert runs.read_text().split() == [str(number) for number in range(8)]


def test_a_paused_server_writes_nothing_of_a_prediction_that_another_has_taken_over(
    database: str, new_server: NewServer, tmp_path: Path
) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    # The paused one misses callbacks for longer than `silence`, after which it would send the prediction again.
    with new_server("a", silence=1.0) as paused:
        running = paused.create("text", text="x", mark=str(runs), hold=str(go))["id"]
        wait_for_runs(runs)
        with new_server("b") as other:
            assert paused.process is not None
            paused.process.send_signal(signal.SIGSTOP)
            try:
                query_value(database, "UPDATE servers SET seen_at = now() - interval '1 min' RETURNING 1")
                wait_for_runs(runs, 2)
                wait_until(lambda: other.get(running)["logs"].endswith("text: x\n"))
                row = f"SELECT predictions::text FROM predictions WHERE id = '{running}'"
                before = query_value(database, row)
            finally:
                paused.process.send_signal(signal.SIGCONT)
            paused.create("text", text="y")  # its answer shows that the server runs again
            taken_over = f'waits: another server has taken it over", "prediction": "{running}"'
            wait_until(lambda: taken_over in paused.log.read_text())
            assert query_value(database, row) == before
            go.touch()
            assert other.wait_for(running)["status"] == "succeeded"
        assert runs.read_text().split() == ["x", "x"]


def test_a_transaction_of_a_stopped_server_does_not_block_the_others(database: str) -> None:
    stopped, other = Database(database), Database(database)
    asyncio.run(stopped.open())
    with stopped.engine.connect() as connection:
        connection.execute(sa.text("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE"))
        assert asyncio.run(other.rows(sa.select(predictions.c.id).limit(0))) == []  # 5 s later
        with pytest.raises(sa.exc.InternalError, match="idle-in-transaction timeout"):
            connection.execute(sa.text("SELECT 1"))
    asyncio.run(stopped.close())
    asyncio.run(other.close())


def test_connections_need_no_startup_option_which_pgbouncer_refuses(database: str) -> None:
    setting = sa.text("SELECT setting, source FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'")
    engine = Database(database).engine
    with engine.connect() as connection:
        assert connection.execute(setting).one() == ("5000", "session")  # an option has the source "client"
    engine.dispose()


def test_servers_that_all_paused_do_not_take_over_from_each_other(
    database: str, new_server: NewServer, tmp_path: Path
) -> None:
    # As after an outage of the database, when the first one to continue finds no new heartbeat of the others.
    runs, go = tmp_path / "runs", tmp_path / "go"
    servers = [new_server(name) for name in "ab"]
    with servers[0], servers[1]:
        running = servers[0].create("text", text="x", mark=str(runs), hold=str(go))["id"]
        wait_for_runs(runs)
        processes = [server.process for server in servers if server.process is not None]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        time.sleep(heartbeat.TIMEOUT + 0.5)
        late = f"SELECT count(*) FROM servers WHERE seen_at < now() - interval '{heartbeat.TIMEOUT} s'"
        for number, process in enumerate(processes, start=1):
            process.send_signal(signal.SIGCONT)
            while query_value(database, late) != len(processes) - number:
                time.sleep(0.02)
        time.sleep(heartbeat.INTERVAL)
        go.touch()
        assert servers[1].wait_for(running)["status"] == "succeeded"
        assert runs.read_text().split() == ["x"]
        assert "no heartbeat" not in "".join(server.log.read_text() for server in servers)


def test_all_predictions_succeed_when_one_of_two_servers_is_killed(
    database: str, new_server: NewServer, tmp_path: Path
) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    with new_server("a") as first, new_server("b") as second:
        running = first.create("text", text="running", mark=str(runs), hold=str(go))["id"]
        wait_for_runs(runs)
        queued = [first.create("text", text=str(number), mark=str(runs))["id"] for number in range(10)]
        # Kill the server that runs the prediction.
        sent = [line for line in first.log.read_text().splitlines() if "sent to" in line]
        killed, alive = (first, second) if running in "".join(sent) else (second, first)
        killed.kill()
        # As after a kill between the insert of a prediction and its place in the queue.
        delete = f"DELETE FROM dbos.workflow_status WHERE workflow_uuid = '{queued[-1]}' RETURNING 1"
        query_value(database, f"WITH deleted AS ({delete}) SELECT count(*) FROM deleted")
        go.touch()
        for prediction_id in [running, *queued]:
            assert alive.wait_for(prediction_id)["status"] == "succeeded"
        again = alive.get(running)
        assert alive.logged_errors() == []
    logs = again["logs"].removeprefix("starting text ...\n")
    assert logs.startswith("The server stopped while this prediction was running; it is run again.\n")
    assert sorted(runs.read_text().split()) == sorted(["running", "running", *map(str, range(10))])


def test_a_server_that_gets_sigterm_hands_over_before_its_prediction_ends(
    new_server: NewServer, tmp_path: Path
) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    first, second = new_server("a"), new_server("b")
    with first, Threads() as threads:
        answer = threads.submit(first.create, "text", wait=True, mark=str(runs), hold=str(go))
        wait_for_runs(runs)
        with second:
            assert first.process is not None
            first.process.send_signal(signal.SIGTERM)
            first.process.wait(60)  # the prediction ends after `go` only
            assert answer.result()["status"] == "starting"
            wait_for_runs(runs, 2)
            go.touch()
            assert second.wait_for(answer.result()["id"])["status"] == "succeeded"
        assert first.logged_errors() == []


def test_a_backup_from_before_an_upgrade_is_restored_with_its_predictions(
    postgresql: str, database: str, new_server: NewServer, tmp_path: Path
) -> None:
    with new_server("a") as server:
        before = server.create("text", wait=True, text="before")
    url, other = (url.replace("+psycopg", "") for url in (database, postgresql))
    subprocess.run([postgres.program("pg_dump"), "-Fc", "-f", tmp_path / "dump", url], check=True)
    with postgres.connect(database) as connection:
        connection.execute("CREATE TABLE added (id INTEGER)")  # by a newer release
    restore = ["--clean", "--if-exists", "--create", "-d", other, tmp_path / "dump"]  # as deploy/README.md says
    subprocess.run([postgres.program("pg_restore"), *restore], check=True)
    assert query_value(database, "SELECT count(*) FROM pg_tables WHERE tablename = 'added'") == 0
    with new_server("a") as server:
        assert server.get(before["id"])["output"] == "before"
        assert server.create("text", wait=True, text="after")["output"] == "after"
