"""200 predictions on two servers, while workers come and go, a server is killed and restarted, and one is paused."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import postgres
from api_server import ApiServer, wait_until
from changing_workers import ChangingWorkers, changing_workers
from name_server import name_server, with_name_server
from predictions_api.run.heartbeat import TIMEOUT
from psycopg.rows import namedtuple_row

COUNT = 200
MODEL = "animate-diff"
NOTICE = "The server stopped while this prediction was running; it is run again.\n"
WAIT_BOUND = 10.0  # seconds that a prediction may wait while one worker is free
ORDER_BOUND = 5.0  # seconds that a prediction may start after a newer one, such as when a worker refused it as busy
KILL, PAUSE, RESUME = 3.0, 13.0, 13.0 + TIMEOUT + 4.0  # seconds after the start
COUNTS = (2, 1, 0, 3, 2, 4)  # of workers, after 3
# The queue counts how often it gave a prediction to a server: again, if the first one stopped.
QUERY = """SELECT input->>'text' AS text, status, error, logs, attempts, worker,
    created_at / 1e6::float AS created, started_at / 1e6::float AS started, completed_at / 1e6::float AS completed,
    (SELECT recovery_attempts FROM dbos.workflow_status WHERE workflow_uuid = id) AS dispatches
    FROM predictions ORDER BY created_at"""


def find_running(servers: list[ApiServer], database: str) -> ApiServer:
    """Return a server that runs a prediction now, as soon as there is one."""
    query = "SELECT count(*) FROM predictions WHERE status = 'processing' AND id = ANY(%s)"
    deadline = time.monotonic() + 30
    with postgres.connect(database) as connection:
        while time.monotonic() < deadline:
            for server in servers:
                lines = [line for line in server.log.read_text().splitlines() if "sent to http" in line]
                ids = [json.loads(line)["prediction"] for line in lines]
                if connection.execute(query, [ids]).fetchone() != (0,):
                    return server
            time.sleep(0.01)
    raise AssertionError("no server has run a prediction for 30 s")


def wait_for_ends(database: str) -> None:
    query = "SELECT count(*) FROM predictions WHERE status IN ('starting', 'processing')"
    with postgres.connect(database) as connection:
        wait_until(lambda: connection.execute(query).fetchone() == (0,))


def simulate(servers: list[ApiServer], workers: ChangingWorkers, database: str, runs: Path) -> None:
    dice = random.Random(29)
    ready = list(servers)  # for requests
    stopped: list[ApiServer] = []

    def stop(sign: signal.Signals) -> None:
        server = find_running(ready, database)
        ready.remove(server)
        stopped.append(server)
        assert server.process is not None
        server.process.send_signal(sign)
        if sign == signal.SIGKILL:
            threads.submit(restart, server)

    def restart(server: ApiServer) -> None:
        server.kill()
        server.start()
        ready.append(server)

    def resume() -> None:
        assert stopped[-1].process is not None
        stopped[-1].process.send_signal(signal.SIGCONT)
        ready.append(stopped[-1])

    def create(number: int) -> None:
        dice.choice(ready).create("text", text=str(number), mark=str(runs), sleep=dice.uniform(0, 0.4))

    events: list[tuple[float, Callable[[], None]]] = [
        (KILL, partial(stop, signal.SIGKILL)),
        (PAUSE, partial(stop, signal.SIGSTOP)),
        (RESUME, resume),
        *((dice.uniform(0, RESUME), partial(create, number)) for number in range(COUNT)),
    ]
    moments = sorted(dice.uniform(KILL + TIMEOUT, RESUME - 2) for _ in COUNTS)
    events += [(moment, partial(workers.change_to, count)) for moment, count in zip(moments, COUNTS, strict=True)]
    workers.change_to(3)
    workers.wait()
    began = time.monotonic()
    with ThreadPoolExecutor(1) as threads:
        try:
            for moment, event in sorted(events, key=lambda event: event[0]):
                time.sleep(max(0.0, began + moment - time.monotonic()))
                event()
            wait_for_ends(database)
        finally:
            for server in servers:
                if server.process is not None:
                    server.process.send_signal(signal.SIGCONT)


def test_all_predictions_succeed_in_order_while_workers_and_servers_come_and_go(
    postgresql: str, tmp_path: Path
) -> None:
    database, runs = postgres.new_database(postgresql), tmp_path / "runs"
    with name_server() as names, changing_workers(names, MODEL, tmp_path / "workers") as workers:
        options = {"models": ["text"], "urls": {"text": [f"dns+http://{MODEL}:{workers.port}"]}, "database": database}
        servers = [ApiServer(tmp_path / name, run_with=with_name_server, **options) for name in "ab"]
        with servers[0], servers[1]:
            simulate(servers, workers, database, runs)
            with postgres.connect(database) as connection:
                rows = connection.cursor(row_factory=namedtuple_row).execute(QUERY).fetchall()
        assert [server.logged_errors() for server in servers] == [[], []]
    assert [(row.status, row.error) for row in rows] == [("succeeded", None)] * COUNT

    # The model records each run.
    run_counts = Counter(runs.read_text().split())
    again = [row for row in rows if row.attempts > 1]
    assert again, "a server was killed and one was paused while they ran a prediction"
    assert [row for row in rows if not 1 <= run_counts[row.text] <= row.attempts] == []
    assert [row for row in again if NOTICE not in row.logs] == []

    in_order = [row for row in rows if row.dispatches == 1]
    latest = 0.0
    for row in in_order:
        assert row.started > latest - ORDER_BOUND, f"{row} started after newer ones"
        latest = max(latest, row.started)

    for worker, (start, end) in workers.spans.items():
        used = sorted((row.started, row.completed) for row in rows if row.worker == worker)
        ends = [start, *(completed for _, completed in used)]
        for free_from, free_until in zip(ends, [*(started for started, _ in used), end], strict=True):
            for row in rows:
                waited = min(free_until, end, row.started) - max(free_from, row.created)
                assert waited < WAIT_BOUND, f"{row} waited {waited:.1f} s while {worker} was free"
