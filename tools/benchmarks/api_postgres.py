"""A queue of the predictions API on PostgreSQL, by the number of predictions in the database.

For each number, ended predictions are copied until the table has so many together with the queue. Clients queue up to
10,000 predictions while no Cog server runs. One and the newest 100 are read again and again. Then a Cog server starts
and the queue is drained for some seconds. The rest is canceled.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import httpx
import sqlalchemy as sa
from cog_local.ports import reserved_port

from benchmarks.api_processes import HEADERS, ApiServer, api_server, cog_server, create_predictions
from benchmarks.measure import seconds, spread
from benchmarks.postgres_cluster import cluster

QUEUE = 10_000
READS = 300
# A copy of one row for each number, with another id and other values that are unique.
PREDICTIONS = """
INSERT INTO predictions SELECT (jsonb_populate_record(old, jsonb_build_object(
    'id', 'c' || number, 'callback_key', number, 'stream_key', NULL, 'created_at', old.created_at - number))).*
FROM predictions old, generate_series({first}, {last}) number WHERE old.id = '{sample}'"""
WORKFLOWS = """
INSERT INTO dbos.{table} SELECT (jsonb_populate_record(old, jsonb_build_object('workflow_uuid', 'c' || number))).*
FROM dbos.{table} old, generate_series({first}, {last}) number WHERE old.workflow_uuid = '{sample}'"""
TABLES = ("workflow_status", "workflow_input", "workflow_output")
CANCEL = """
DELETE FROM dbos.workflow_status WHERE status = 'ENQUEUED';
UPDATE predictions SET status = 'canceled', completed_at = created_at WHERE status = 'starting'"""


def measure(sizes: list[int], drain_seconds: float, clients: int) -> None:
    """Print a Markdown table with a row for each size."""
    with tempfile.TemporaryDirectory() as temporary, cluster() as url, reserved_port() as port:
        folder = Path(temporary)
        with cog_server("noop", folder, port):  # writes the schema, which the API reads
            pass
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with api_server(folder, {"noop": f"http://127.0.0.1:{port}"}, f'database = "{url}"') as server:
            print("| predictions | queued | in a second | drained in a second | GET of one | GET of the newest 100 |")
            print("|---|---|---|---|---|---|", flush=True)
            (sample,) = asyncio.run(create_predictions(server, 1, 1))
            with cog_server("noop", folder, port):
                _wait_until(engine, "SELECT count(*) = 0 FROM dbos.workflow_status WHERE status <> 'SUCCESS'")
            for size in sizes:
                queued = min(size, QUEUE)
                _copy(engine, sample, size - queued)
                start = time.perf_counter()
                ids = list(asyncio.run(create_predictions(server, queued, clients)))
                rate = queued / (time.perf_counter() - start)
                one, page = (_read(server, path) for path in (f"/predictions/{ids[0]}", "/predictions"))
                with cog_server("noop", folder, port):
                    drained = _drain(engine, drain_seconds)
                cells = (f"{size:,}", f"{queued:,}", f"{rate:.0f}", f"{drained:.0f}", one, page)
                print(f"| {' | '.join(cells)} |", flush=True)
        engine.dispose()


def _copy(engine: sa.Engine, sample: str, total: int) -> None:
    """Copy an ended prediction, and its workflow, until there are `total` predictions."""
    with engine.connect() as connection:
        count = connection.scalar(sa.text("SELECT count(*) FROM predictions"))
        span = {"first": count + 1, "last": total, "sample": sample}
        connection.exec_driver_sql(PREDICTIONS.format(**span))
        for table in TABLES:
            connection.exec_driver_sql(WORKFLOWS.format(table=table, **span))
        connection.exec_driver_sql("ANALYZE")


def _read(server: ApiServer, path: str) -> str:
    """Return the times of many requests for the same path."""
    with httpx.Client(base_url=f"{server.url}/v1", headers=HEADERS, timeout=60) as http:
        return spread([seconds(lambda: http.get(path).raise_for_status()) for _ in range(READS)])


def _drain(engine: sa.Engine, duration: float) -> float:
    """Return how many predictions end in a second from the first one's start, for a time. Then cancel the others."""
    started = sa.text("SELECT min(started_at) FROM predictions WHERE started_at > :before")
    with engine.connect() as connection:
        before = int(time.time() * 1e6)
        while (first := connection.scalar(started, {"before": before})) is None:
            time.sleep(0.1)
        left = "SELECT count(*) FROM predictions WHERE status IN ('starting', 'processing')"
        while time.time() < first / 1e6 + duration and connection.scalar(sa.text(left)):
            time.sleep(0.1)
        ended = (
            f"SELECT count(*), max(completed_at) FROM predictions WHERE status = 'succeeded' AND started_at >= {first}"
        )
        count, last = connection.execute(sa.text(ended)).one()
        connection.exec_driver_sql(CANCEL)
    _wait_until(engine, f"SELECT ({left}) = 0")
    return float(count / (last - first) * 1e6)


def _wait_until(engine: sa.Engine, query: str) -> None:
    with engine.connect() as connection:
        while not connection.scalar(sa.text(query)):
            time.sleep(0.1)
