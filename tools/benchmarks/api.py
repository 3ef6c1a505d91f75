"""The predictions API with a model that does nothing, or with --postgres its queue on PostgreSQL, in 4 minutes.

    script/bench api [--predictions 1000] [--clients 50] [--memory 10000]
    script/bench api --postgres [--rows 1000 10000 100000] [--seconds 30] [--clients 50]

Without --postgres, it measures the time that the API adds to a prediction, on an idle and on a busy machine, the
processor time of an idle server, the time and the order of a queue of many clients, a page of 100,000 predictions, many
readers of one stream, and the memory, descriptors, files and processes of the server over many predictions, unless
--memory is 0.

It takes about 8 minutes on two idle cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import sqlalchemy as sa
from tree import script_parser

from benchmarks import api_postgres
from benchmarks.api_processes import HEADERS, VERSIONS, ApiServer, api_server, client, cog_server, create_predictions
from benchmarks.measure import machine_line, seconds, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDED = ("succeeded", "failed", "canceled", "aborted")
ROWS = 100_000
READERS = 200
WORDS = 40


def print_added(server: ApiServer, cog_url: str, machine: str, runs: int = 200) -> None:
    """Compare a prediction without and with the API (`Prefer: wait`), alternately."""
    direct: list[float] = []
    through: list[float] = []
    with httpx.Client(headers={**HEADERS, "Prefer": "wait"}, timeout=60) as http:
        body = {"version": VERSIONS["noop"], "input": {}}
        for _ in range(runs):
            direct.append(seconds(lambda: predict_directly(http, cog_url)))
            through.append(seconds(lambda: http.post(f"{server.url}/v1/predictions", json=body).raise_for_status()))
    added = sorted(ours - plain for ours, plain in zip(through, direct, strict=True))
    print(f"one prediction, {runs} alternately, {machine}: direct {spread(direct)}, through the API {spread(through)}")
    print(f"  added: p50 {added[runs // 2] * 1000:.1f} ms, p99 {added[runs * 99 // 100] * 1000:.1f} ms")


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """Keep all processor cores busy with other processes."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def print_idle(server: ApiServer, duration: float = 20.0) -> None:
    """Measure the processor time of a server that receives no requests."""
    before = processor_time(server)
    time.sleep(duration)
    used = processor_time(server) - before
    print(f"idle server: {used / duration * 100:.2f} % of a core, over {duration:.0f} s")


def processor_time(server: ApiServer) -> float:
    """Return the processor time of the server in seconds, from proc(5)."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def predict_directly(http: httpx.Client, cog_url: str) -> None:
    """Run a prediction on the Cog server, which answers 409 for a moment after each prediction."""
    while http.post(f"{cog_url}/predictions", json={"input": {}}).status_code == 409:
        time.sleep(0.001)


async def print_queue(server: ApiServer, predictions: int, clients: int) -> None:
    """Queue predictions from many clients at once; count those that ended, and those overtaken by a later one."""
    start = time.perf_counter()
    requests = await create_predictions(server, predictions, clients)
    queued = time.perf_counter() - start
    async with client(server) as http:
        while any(row["status"] not in ENDED for row in await newest(http, min(predictions, 100))):
            await asyncio.sleep(0.5)
        took = time.perf_counter() - start
        rows = await newest(http, predictions)
    succeeded = [row for row in rows if row["status"] == "succeeded"]
    started = [requests[row["id"]] for row in sorted(succeeded, key=lambda row: str(row["started_at"]))]
    # a request that was sent after another was answered is the later one
    latest, overtaken = 0.0, 0
    for sent, answered in started:
        overtaken += answered < latest
        latest = max(latest, sent)
    creating = [answered - sent for sent, answered in requests.values()]
    print(f"{len(rows)} queued by {clients} clients in {queued:.1f} s ({spread(creating)} each), ended in {took:.1f} s")
    rate = len(rows) / took
    print(f"  {len(succeeded)} of them succeeded, {rate:.0f} a second, {overtaken} overtaken by a later one")


async def newest(http: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    """Return the newest predictions, the newest first."""
    rows: list[dict[str, Any]] = []
    url = "/predictions"
    while url and len(rows) < count:
        page = (await http.get(url)).json()
        rows += page["results"]
        url = page["next"]
    return rows[:count]


async def print_readers(server: ApiServer) -> None:
    """Read the stream of one prediction with many clients while it runs."""
    async with client(server) as http:
        body = {"version": VERSIONS["words"], "input": {"count": WORDS}}
        prediction = (await http.post("/predictions", json=body)).json()

        async def read() -> tuple[int, float]:
            outputs = 0
            async with http.stream("GET", prediction["urls"]["stream"]) as stream:
                async for line in stream.aiter_lines():
                    outputs += line == "event: output"
            return outputs, time.time()

        counts, ends = zip(*await asyncio.gather(*(read() for _ in range(READERS))), strict=True)
        ended = (await http.get(f"/predictions/{prediction['id']}")).json()
    print(f"{READERS} readers of one stream: outputs of each {set(counts)} of {WORDS}, status {ended['status']}")
    print(f"  from the first reader's end to the last's {max(ends) - min(ends):.2f} s")


def print_list(server: ApiServer) -> None:
    """Copy one prediction many times in the database, and time pages of the list."""
    engine = sa.create_engine(f"sqlite:///{server.database}")
    with engine.begin() as connection:
        table = sa.Table("predictions", sa.MetaData(), autoload_with=connection)
        select = sa.select(table).where(table.c.model == "benchmark/noop").limit(1)
        row = connection.execute(select).mappings().one()
        copies = [
            {
                **row,
                "id": f"copy{number:022d}",
                "created_at": row["created_at"] - number - 1,
                "callback_key": f"{number}",
                "stream_key": None,
            }
            for number in range(ROWS)
        ]
        connection.execute(sa.insert(table), copies)
    engine.dispose()
    following = []
    with httpx.Client(headers=HEADERS) as http:
        first = [seconds(lambda: http.get(f"{server.url}/v1/predictions")) for _ in range(20)]
        page = http.get(f"{server.url}/v1/predictions").json()
        for _ in range(20):
            start = time.perf_counter()
            answer = http.get(page["next"])
            following.append(time.perf_counter() - start)
            page = answer.json()
    print(f"a page of 100 of {ROWS} predictions: the first {spread(first)}, the 20 after it {spread(following)}")


async def print_resources(server: ApiServer, predictions: int) -> None:
    """Measure what the server holds over many predictions, each with `Prefer: wait`."""
    held = [resources(server)]
    start = time.perf_counter()
    for _ in range(10):
        await create_predictions(server, predictions // 10, clients=8, Prefer="wait")
        held.append(resources(server))
    took = time.perf_counter() - start
    print(f"{predictions} predictions in {took:.0f} s, before them and at each tenth:")
    for name in held[0]:
        print(f"  {name}: {', '.join(str(moment[name]) for moment in held)}")


def resources(server: ApiServer) -> dict[str, int]:
    """Return the memory in MB, and the numbers of descriptors, files and processes of the server, from proc(5)."""
    process = Path(f"/proc/{server.pid}")
    files = [path for path in server.database.parent.rglob("*") if path.is_file()]
    children = [stat for stat in Path("/proc").glob("[0-9]*/stat") if parent_of(stat) == server.pid]
    return {
        "memory (MB)": int((process / "status").read_text().partition("VmRSS:")[2].split()[0]) // 1024,
        "descriptors": len(list((process / "fd").iterdir())),
        "files in the data directory": len(files),
        "processes": 1 + len(children),
    }


def parent_of(stat: Path) -> int | None:
    """Return the parent's process id, or None if the process has ended."""
    with contextlib.suppress(OSError):
        return int(stat.read_text().rpartition(")")[2].split()[1])
    return None


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--predictions", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--memory", type=int, default=10_000)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=30)
    arguments = parser.parse_args()
    print(machine_line())
    if arguments.postgres:
        api_postgres.measure(arguments.rows, arguments.seconds, arguments.clients)
        return
    with (
        tempfile.TemporaryDirectory() as temporary,
        cog_server("noop", Path(temporary)) as noop,
        cog_server("words", Path(temporary)) as words,
        api_server(Path(temporary), {"noop": noop.url, "words": words.url}) as server,
    ):
        print_added(server, noop.url, "idle machine")
        with busy_machine():
            print_added(server, noop.url, "busy machine")
        print_idle(server)
        asyncio.run(print_queue(server, arguments.predictions, arguments.clients))
        asyncio.run(print_readers(server))
        print_list(server)
        if arguments.memory:
            asyncio.run(print_resources(server, arguments.memory))
