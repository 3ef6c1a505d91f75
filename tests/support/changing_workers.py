"""Cog servers of the test model `text` that come and go: a name of the tests' name server has their addresses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from api_server import cog_at
from name_server import Names
from ports import free_port

DRAIN_SECONDS = 10.0  # until all API servers have asked for the addresses again; deploy/kubernetes/ waits 10 s
START_TIMEOUT = 60.0


class ChangingWorkers:
    """Workers, each at an address of its own."""

    def __init__(self, names: Names, name: str, directory: Path) -> None:
        self.port = free_port()
        self._addresses = names.addresses.setdefault(name, [])
        self._directory = directory
        self._starts: list[Future[str]] = []
        self._changes: list[Future[object]] = []
        self._threads = ThreadPoolExecutor(16)
        self._processes = ExitStack()

    def change_to(self, count: int) -> None:
        """Start or drain workers until there are so many. Those that came first go first."""
        for _ in range(len(self._starts), count):
            number = len(self._changes) + 1
            self._starts.append(self._threads.submit(self._start, f"127.0.1.{number}"))
            self._changes.append(self._starts[-1])
        for _ in range(len(self._starts) - count):
            self._changes.append(self._threads.submit(self._drain, self._starts.pop(0)))

    def _start(self, host: str) -> str:
        self._processes.enter_context(cog_at(host, self.port, self._directory / host))
        deadline = time.monotonic() + START_TIMEOUT
        while self._status(host) != "READY":
            assert time.monotonic() < deadline, f"no Cog server at {host} within {START_TIMEOUT:.0f} s"
            time.sleep(0.1)
        self._addresses.append(host)
        return host

    def _drain(self, start: Future[str]) -> None:
        host = start.result()
        self._addresses.remove(host)
        time.sleep(DRAIN_SECONDS)
        while self._status(host) == "BUSY":
            time.sleep(0.1)
        httpx.post(f"{self._url(host)}/shutdown", timeout=60)

    def wait(self) -> None:
        """Wait until all changes are complete."""
        for change in self._changes:
            change.result()

    def _url(self, host: str) -> str:
        return f"http://{host}:{self.port}"

    def _status(self, host: str) -> str:
        try:
            return str(httpx.get(f"{self._url(host)}/health-check", timeout=60).json()["status"])
        except httpx.HTTPError:
            return "GONE"


@contextmanager
def changing_workers(names: Names, name: str, directory: Path) -> Iterator[ChangingWorkers]:
    workers = ChangingWorkers(names, name, directory)
    try:
        yield workers
    finally:
        workers._threads.shutdown(cancel_futures=True)
        workers._processes.close()
