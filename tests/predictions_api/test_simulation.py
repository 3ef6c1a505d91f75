"""Predictions on two servers, while workers come and go, a server is killed and restarted, and one is paused."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import postgres
from api_server import ApiServer, wait_until
from changing_workers import ChangingWorkers, changing_workers
from free_workers import Addresses, waits
from name_server import name_server, with_name_server
from psycopg.rows import namedtuple_row

COUNT = 200
MODEL = "animate-diff"
NOTICE = "The server stopped while this prediction was running; it is run again.\n"
KILL, PAUSE, CHANGES, END = 1.0, 4.0, (6.0, 14.0), 20.0  # seconds after the start
COUNTS = (2, 1, 0, 3, 2, 4)  # of workers, after 3
QUERY = "SELECT id, input->>'text' AS text, status, error, logs, attempts, created_at, completed_at FROM predictions"


def wait_for(database: str, condition: str) -> None:
    """Wait until a condition holds for all predictions."""
    query = f"SELECT 1 FROM predictions WHERE NOT ({condition})".encode()
    with postgres.connect(database) as connection:
        wait_until(lambda: connection.execute(query).fetchone() is None)


def last_sent_at(server: ApiServer, prediction_id: str) -> str:
    """Return when a server sent a prediction to a worker, or "" if it did not."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if "sent to http" in line]
    return max((line["time"] for line in lines if line["prediction"] == prediction_id), default="")


class Simulation:
    """Two servers, their workers, and `interrupted`: the predictions that run when a server stops."""

    def __init__(self, servers: list[ApiServer], workers: ChangingWorkers, database: str, directory: Path) -> None:
        self.servers = servers
        self.workers = workers
        self.database = database
        self.runs = directory / "runs"
        self.interrupted: list[str] = []
        self._directory = directory
        self._dice = random.Random(29)
        self._ready = list(servers)  # for requests
        self._threads = ThreadPoolExecutor(1)

    def run(self) -> None:
        events: list[tuple[float, Callable[[], None]]] = [
            (KILL, partial(self._stop, signal.SIGKILL)),
            (PAUSE, partial(self._stop, signal.SIGSTOP)),
            *((self._dice.uniform(0, END), partial(self._create, number)) for number in range(COUNT)),
        ]
        moments = sorted(self._dice.uniform(*CHANGES) for _ in COUNTS)
        events += zip(moments, (partial(self.workers.change_to, count) for count in COUNTS), strict=True)
        self.workers.change_to(3)
        self.workers.wait()
        began = time.monotonic()
        with self._threads:
            for moment, event in sorted(events, key=lambda event: event[0]):
                time.sleep(max(0.0, began + moment - time.monotonic()))
                event()
            wait_for(self.database, "status NOT IN ('starting', 'processing')")

    def _create(self, number: int) -> None:
        inputs = {"text": str(number), "mark": str(self.runs), "sleep": self._dice.uniform(0, 0.4)}
        self._dice.choice(self._ready).create("text", **inputs)

    def _stop(self, sign: signal.Signals) -> None:
        """Kill or pause a server while it runs a prediction, and let it run on after the other one has taken over."""
        wait_until(lambda: len(self._ready) == len(self.servers))  # so that one is left for requests
        hold = self._directory / sign.name
        created = self._dice.choice(self._ready).create("text", text=sign.name, mark=str(self.runs), hold=str(hold))
        self.interrupted.append(created["id"])
        wait_until(lambda: self.runs.exists() and sign.name in self.runs.read_text().split())
        server = max(self._ready, key=lambda server: last_sent_at(server, created["id"]))
        self._ready.remove(server)
        assert server.process is not None
        server.process.send_signal(sign)
        hold.touch()
        self._threads.submit(self._continue, server, sign, created["id"])

    def _continue(self, server: ApiServer, sign: signal.Signals, prediction_id: str) -> None:
        if sign == signal.SIGKILL:
            server.kill()
            server.start()
        else:
            assert server.process is not None
            wait_for(self.database, f"id != '{prediction_id}' OR attempts > 1")
            server.process.send_signal(signal.SIGCONT)
        self._ready.append(server)


def sent_by(server: ApiServer) -> list[tuple[float, str, str]]:
    """Return the time, the prediction and the worker's address of all that a server has sent to workers."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if "sent to http" in line]
    return [
        (
            datetime.fromisoformat(line["time"]).timestamp(),
            line["prediction"],
            line["message"].partition("//")[2].partition(":")[0],
        )
        for line in lines
    ]


def test_all_predictions_succeed_while_workers_and_servers_come_and_go(postgresql: str, tmp_path: Path) -> None:
    database, addresses = postgres.new_database(postgresql), Addresses()
    with name_server() as names:
        names.addresses[MODEL] = addresses
        with changing_workers(names, MODEL, tmp_path / "workers") as workers:
            urls = {"text": [f"dns+http://{MODEL}:{workers.port}"]}
            options = {"models": ["text"], "urls": urls, "database": database}
            servers = [ApiServer(tmp_path / name, run_with=with_name_server, **options) for name in "ab"]
            with servers[0], servers[1]:
                simulation = Simulation(servers, workers, database, tmp_path)
                simulation.run()
                with postgres.connect(database) as connection:
                    rows = connection.cursor(row_factory=namedtuple_row).execute(QUERY).fetchall()
    assert [server.logged_errors() for server in servers] == [[], []]
    assert [(row.status, row.error) for row in rows] == [("succeeded", None)] * (COUNT + 2)

    # The model records each run.
    run_counts = Counter(simulation.runs.read_text().split())
    again = [row for row in rows if row.attempts > 1]
    assert {*simulation.interrupted} <= {row.id for row in again}
    assert [row for row in rows if not 1 <= run_counts[row.text] <= row.attempts] == []
    assert [row for row in again if NOTICE not in row.logs] == []
    longest = max(waits([sent for server in servers for sent in sent_by(server)], rows, addresses))
    print(f"the longest wait of {len(rows)} predictions while a worker was free: {longest:.1f} s")


def test_a_prediction_waits_while_a_worker_is_free_that_has_come_and_not_gone() -> None:
    addresses = Addresses()
    addresses.began, addresses.ended = {"a": 0, "b": 10}, {"a": 9}
    sent = [(6, "first", "a"), (12, "second", "b")]
    rows = [
        SimpleNamespace(id="first", created_at=1e6, completed_at=8e6),  # a is free from 0 to 6
        SimpleNamespace(id="second", created_at=3e6, completed_at=13e6),  # ... from 8 to 9, b from 10 to 12
    ]
    assert waits(sent, rows, addresses) == [6 - 1, 6 - 3]
    rows[1].created_at = 7e6
    assert waits(sent, rows, addresses) == [6 - 1, 12 - 10]
