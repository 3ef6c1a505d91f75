"""The predictions API on a model that does nothing, against the same Cog server asked directly.

python benchmarks/api.py [--predictions 1000] [--clients 50] [--memory 10000]

It measures what the API adds to a prediction, how long a queue of many clients takes and whether it keeps their order,
a page among 100,000 rows, many readers of one stream, and the server's memory over many predictions.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import sqlalchemy as sa
from api_server import TOKEN, VERSIONS, ApiServer, CogProcess

from benchmarks.measure import machine_line

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 100_000
READERS = 200
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
ENDED = ("succeeded", "failed", "canceled", "aborted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=1000, help="queued at once")
    parser.add_argument("--clients", type=int, default=50, help="that queue them")
    parser.add_argument("--memory", type=int, default=10_000, help="predictions over which memory is watched; 0: not")
    arguments = parser.parse_args()
    print(machine_line())
    with tempfile.TemporaryDirectory() as folder, CogProcess("text") as cog, CogProcess("words") as words:
        urls = {"text": [cog.url], "words": [words.url]}
        with ApiServer(Path(folder), models=["text", "words"], urls=urls, queue_limit=10**6) as server:
            print_added(server, cog.url)
            asyncio.run(print_queue(server, arguments.predictions, arguments.clients))
            asyncio.run(print_readers(server))
            print_list(server, Path(folder))
            if arguments.memory:
                asyncio.run(print_memory(server, arguments.memory))


def print_added(server: ApiServer, cog_url: str, runs: int = 100) -> None:
    """Compare one prediction at a time: direct, and through the API with `Prefer: wait`, by turns."""
    direct: list[float] = []
    through: list[float] = []
    with httpx.Client(headers={**HEADERS, "Prefer": "wait"}) as http:
        body = {"version": VERSIONS["text"], "input": {}}
        for _ in range(runs):
            direct.append(seconds(lambda: settled(http, f"{cog_url}/predictions")))
            through.append(seconds(lambda: http.post(f"{server.url}/v1/predictions", json=body).raise_for_status()))
    added = sorted(ours - plain for ours, plain in zip(through, direct, strict=True))
    print(f"one prediction, {runs} by turns: direct {spread(direct)}, through the API {spread(through)}")
    print(f"  added: p50 {added[runs // 2] * 1000:.1f} ms, p99 {added[runs * 99 // 100] * 1000:.1f} ms")


def settled(http: httpx.Client, url: str) -> None:
    """Ask Cog itself; it says 409 for a moment after it has answered."""
    while http.post(url, json={"input": {}}).status_code == 409:
        time.sleep(0.001)


async def print_queue(server: ApiServer, predictions: int, clients: int) -> None:
    """Queue predictions from many clients at once; all have to end, in the order of their creation."""
    asked: dict[str, tuple[float, float]] = {}  # when the request was sent, and when it was answered
    async with client(server) as http:
        start = time.perf_counter()

        async def create(share: int) -> None:
            for _ in range(share):
                began = time.perf_counter()
                answer = await http.post("/predictions", json={"version": VERSIONS["text"], "input": {}})
                assert answer.status_code == 201, answer.text
                asked[answer.json()["id"]] = began, time.perf_counter()

        await asyncio.gather(*(create(predictions // clients) for _ in range(clients)))
        queued = time.perf_counter() - start
        while any(row["status"] not in ENDED for row in await newest(http, min(predictions, 100))):
            await asyncio.sleep(0.5)
        took = time.perf_counter() - start
        rows = await newest(http, predictions)
    succeeded = [row for row in rows if row["status"] == "succeeded"]
    started = [asked[row["id"]] for row in sorted(rows, key=lambda row: str(row["started_at"]))]
    # Whoever asks after another one has been answered comes after it.
    latest, overtaken = 0.0, 0
    for sent, answered in started:
        overtaken += answered < latest
        latest = max(latest, sent)
    creating = [answered - sent for sent, answered in asked.values()]
    print(f"{len(rows)} queued by {clients} clients in {queued:.1f} s ({spread(creating)} each), ended in {took:.1f} s")
    speed = len(rows) / took
    print(f"  {len(succeeded)} of them succeeded, {speed:.0f} a second, {overtaken} overtaken by a later one")


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
    """Let many read the stream of one prediction while it runs."""
    text = " ".join(map(str, range(40)))
    async with client(server) as http:
        body = {"version": VERSIONS["words"], "input": {"text": text, "sleep": 0.1}}
        made = (await http.post("/predictions", json=body)).json()

        async def read() -> tuple[int, float]:
            outputs = 0
            async with http.stream("GET", made["urls"]["stream"]) as lines:
                async for line in lines.aiter_lines():
                    outputs += line == "event: output"
            return outputs, time.time()

        counts, ends = zip(*await asyncio.gather(*(read() for _ in range(READERS))), strict=True)
        ended = (await http.get(f"/predictions/{made['id']}")).json()
    print(f"{READERS} readers of one stream: outputs seen by each {set(counts)} of 40, status {ended['status']}")
    print(f"  from the first reader's end to the last's {max(ends) - min(ends):.2f} s")


def print_list(server: ApiServer, folder: Path) -> None:
    """Put many rows into the database beside the server, and time pages of the list."""
    engine = sa.create_engine(f"sqlite:///{folder / 'data' / 'predictions.sqlite'}")
    with engine.begin() as connection:
        table = sa.Table("predictions", sa.MetaData(), autoload_with=connection)
        row = connection.execute(sa.select(table).where(table.c.model == "test/text").limit(1)).mappings().one()
        copies = [
            {
                **row,
                "id": f"copy{number:022d}",
                "created_at": row["created_at"] - number - 1,
                "callback_key": f"{number}",
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
            began = time.perf_counter()
            answer = http.get(page["next"])
            following.append(time.perf_counter() - began)
            page = answer.json()
    print(f"a page of 100 among {ROWS} rows: the first {spread(first)}, the 20 after it {spread(following)}")


async def print_memory(server: ApiServer, predictions: int) -> None:
    """Watch the server's memory over many predictions, each waited for."""
    marks = [memory(server)]
    async with client(server) as http:
        began = time.perf_counter()
        for _ in range(10):
            done = 0

            async def work() -> None:
                nonlocal done
                while done < predictions // 10:
                    done += 1
                    body = {"version": VERSIONS["text"], "input": {}}
                    answer = await http.post("/predictions", json=body, headers={"Prefer": "wait"})
                    assert answer.status_code == 201, answer.text

            await asyncio.gather(*(work() for _ in range(8)))
            marks.append(memory(server))
        took = time.perf_counter() - began
    line = ", ".join(f"{mark:.0f}" for mark in marks)
    print(f"memory over {predictions} predictions in {took:.0f} s, at each tenth: {line} MB")


def memory(server: ApiServer) -> float:
    """Return the server process's resident memory, in MB."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def client(server: ApiServer) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=f"{server.url}/v1", headers=HEADERS, timeout=300, limits=limits)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(times: list[float]) -> str:
    """Return p50 and p99 in milliseconds."""
    p99 = sorted(times)[len(times) * 99 // 100]
    return f"p50 {statistics.median(times) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms"


if __name__ == "__main__":
    main()
