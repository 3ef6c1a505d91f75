"""The predictions API and Cog servers as processes, for the benchmarks of the API."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
from cog_local.schema import write_schema
from cog_local.server import CogServer

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSIONS = {"noop": "1" * 64, "words": "2" * 64}
TOKEN = "benchmark-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


class ApiServer(NamedTuple):
    """A running predictions API."""

    url: str
    pid: int
    database: Path


@contextlib.contextmanager
def cog_server(name: str, folder: Path, port: int = 0) -> Iterator[CogServer]:
    """Run the Cog server of NAME_model.py, in a directory of its own with a schema."""
    directory = folder / name
    directory.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name(f"{name}_model.py"), directory / "predict.py")
    write_schema(directory)
    with CogServer(directory, port=port) as server:
        yield server


@contextlib.contextmanager
def api_server(folder: Path, cog_urls: dict[str, str], *settings: str) -> Iterator[ApiServer]:
    """Run the predictions API in front of Cog servers. `settings` are lines of its configuration."""
    lines = ['data = "data"', "queue_limit = 1000000", *settings]
    for name, url in cog_urls.items():
        lines += ["[[models]]", f'name = "benchmark/{name}"', f'versions = ["{VERSIONS[name]}"]']
        lines += [f'schema = "{name}/openapi.json"', f'urls = ["{url}"]']
    config = folder / "config.toml"
    config.write_text("\n".join(lines))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("REPLICATE", "DBOS"))}
    command = [sys.executable, "-m", "predictions_api", "--config", str(config), "--port", "0"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=environ | {"REPLICATE_API_TOKEN": TOKEN}, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            words = process.stdout.readline().partition(" is ready at ")[2].split()
            if not words:
                raise RuntimeError(f"the predictions API did not start: {(folder / 'log').read_text()[-3000:]}")
            yield ApiServer(words[0], process.pid, folder / "data" / "predictions.sqlite")
        finally:
            process.terminate()


def client(server: ApiServer) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    # Without HTTPS, certificates need not be loaded.
    return httpx.AsyncClient(base_url=f"{server.url}/v1", headers=HEADERS, timeout=300, limits=limits, verify=False)


async def create_predictions(
    server: ApiServer, count: int, clients: int, **headers: str
) -> dict[str, tuple[float, float]]:
    """Create predictions by many clients at once; return when each request was sent and answered, by id.

    Each has connections of its own. The pool of one httpx client for all takes more time than the server.
    """
    numbers, requests = iter(range(count)), {}

    async def create() -> None:
        async with client(server) as http:
            for _ in numbers:
                sent = time.perf_counter()
                body = {"version": VERSIONS["noop"], "input": {}}
                answer = await http.post("/predictions", json=body, headers=headers)
                requests[answer.raise_for_status().json()["id"]] = sent, time.perf_counter()

    await asyncio.gather(*(create() for _ in range(clients)))
    return requests
