"""The Cog servers of one model, lent to one prediction each: a native process of our own, or servers at given URLs.

The native process starts when it is first needed, starts again when it has died, and stops when it has been idle. Its
stdin is a pipe that it watches: it ends when this process ends, however this one ends. Who waits for a server in which
order is the queue's business (engine.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from predictions_api.run.cog_client import CogClient, CogError, Unreachable
from predictions_api.run.native import NativeCog, StartFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from predictions_api.settings import ModelSettings

LOG = logging.getLogger("predictions_api.workers")
_POLL_INTERVAL = 1.0  # seconds between two looks at servers that are busy or away
_RELEASE_TIMEOUT = 30.0  # a prediction that was given up has this long to end before its server is started anew


class Workers(ABC):
    """The Cog servers of one model. `size` of them can be lent at once."""

    size: int

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient) -> None:
        self.model = model
        self._http = http

    @abstractmethod
    def lend(self) -> contextlib.AbstractAsyncContextManager[CogClient]:
        """Lend a server that is ready, to one prediction; waits while there is none. Raises StartFailed."""

    @abstractmethod
    async def close(self) -> None:
        """Stop what was started."""

    @abstractmethod
    async def describe(self) -> tuple[dict[str, Any], str]:
        """Ask a server for the model's OpenAPI schema and for the version of Cog; raises CogError."""


def create_workers(model: ModelSettings, http: httpx.AsyncClient, *, idle: float) -> Workers:
    """Return the servers of a model as its settings have them; `idle` seconds without work stop a native one."""
    return ExternalWorkers(model, http) if model.urls else NativeWorkers(model, http, idle=idle)


async def _describe(client: CogClient, default: str) -> tuple[dict[str, Any], str]:
    return await client.schema(), await client.cog_version() or default


class ExternalWorkers(Workers):
    """Servers at URLs, run by others, which other users may keep busy as well."""

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient) -> None:
        super().__init__(model, http)
        self.size = len(model.urls)
        self._clients = [CogClient(url, http) for url in model.urls]
        self._lent_clients: set[CogClient] = set()

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[CogClient]:
        """Lend the first server that is ready, in the order of the settings; the others are looked at again."""
        client = await self._wait_for_ready()
        try:
            yield client
        finally:
            self._lent_clients.discard(client)

    async def _wait_for_ready(self) -> CogClient:
        reported: dict[str, str] = {}
        while True:
            for client in self._clients:
                if client in self._lent_clients:
                    continue
                self._lent_clients.add(client)
                health = "GONE"
                try:
                    health = await client.health()
                finally:
                    if health != "READY":
                        self._lent_clients.discard(client)
                if health == "READY":
                    return client
                if health != "BUSY" and reported.get(client.url) != health:
                    reported[client.url] = health
                    LOG.warning("%s: the Cog server at %s is %s", self.model.name, client.url, health)
            await asyncio.sleep(_POLL_INTERVAL)

    async def close(self) -> None:
        """Leave them as they are: others started them."""

    async def describe(self) -> tuple[dict[str, Any], str]:
        """Ask the servers in turn, busy ones too."""
        last_error: CogError = Unreachable("there is no Cog server")
        for client in self._clients:
            try:
                return await _describe(client, self.model.cog_version)
            except CogError as error:
                last_error = error
        raise last_error


class NativeWorkers(Workers):
    """One process of our own."""

    size = 1

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient, *, idle: float) -> None:
        super().__init__(model, http)
        self._idle = idle
        self._process: NativeCog | None = None
        self._lock = asyncio.Lock()  # held by who has the server, or starts or stops it
        self._idle_timer: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[CogClient]:
        """Lend the server, started first where it does not run or is broken."""
        async with self._lock:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            try:
                yield await self._start_or_reuse()
            finally:
                self._idle_timer = asyncio.create_task(self._stop_when_idle())

    async def _start_or_reuse(self) -> CogClient:
        since = time.monotonic()
        while self._process is not None:
            health = await self._process.health()
            if health == "READY" and self._process.client is not None:
                return self._process.client
            # Started for somebody who did not wait for it, or still with a prediction that was given up.
            if health == "STARTING" or (health == "BUSY" and time.monotonic() < since + _RELEASE_TIMEOUT):
                await asyncio.sleep(0.05)
                continue
            LOG.warning("%s: the Cog server is %s; starting it anew", self.model.name, health)
            await self._stop()
        self._process = NativeCog(self.model, self._http)
        try:
            return await self._process.start()
        except StartFailed:
            self._process = None
            raise

    async def _stop(self) -> None:
        if self._process is not None:
            await self._process.stop()
            self._process = None

    async def _stop_when_idle(self) -> None:
        await asyncio.sleep(self._idle)
        async with self._lock:
            if self._process is not None:
                LOG.info("%s: stopping the Cog server, idle for %.0f s", self.model.name, self._idle)
                await self._stop()

    async def describe(self) -> tuple[dict[str, Any], str]:
        """Ask the server, busy or not; start it where it does not run."""
        if self._process is not None and self._process.client is not None:
            return await _describe(self._process.client, self.model.cog_version)
        async with self.lend() as client:
            return await _describe(client, self.model.cog_version)

    async def close(self) -> None:
        """Stop the process, whoever has it."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        await self._stop()
