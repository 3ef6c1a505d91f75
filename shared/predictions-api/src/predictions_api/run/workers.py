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

from predictions_api.run.cog_client import CogError, CogServer, Gone
from predictions_api.run.native import NativeCog, StartFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from predictions_api.settings import ModelSettings

LOG = logging.getLogger("predictions_api.workers")
_LOOK_AGAIN = 1.0  # seconds between two looks at servers that are busy or away
_LET_GO_SECONDS = 30.0  # a prediction that was given up has this long to end before its server is started anew


class Workers(ABC):
    """The Cog servers of one model. `size` of them can be lent at once."""

    size: int

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient) -> None:
        self.model = model
        self._http = http

    @abstractmethod
    def lend(self) -> contextlib.AbstractAsyncContextManager[CogServer]:
        """Lend a server that is ready, to one prediction; waits while there is none. Raises StartFailed."""

    @abstractmethod
    async def close(self) -> None:
        """Stop what was started."""

    @abstractmethod
    async def about(self) -> tuple[dict[str, Any], str]:
        """Ask a server for the model's OpenAPI schema and for the version of Cog; raises CogError."""


def workers_of(model: ModelSettings, http: httpx.AsyncClient, *, idle: float) -> Workers:
    """Return the servers of a model as its settings have them; `idle` seconds without work stop a native one."""
    return Found(model, http) if model.urls else Native(model, http, idle=idle)


async def _ask(server: CogServer, default: str) -> tuple[dict[str, Any], str]:
    return await server.schema(), await server.cog_version() or default


class Found(Workers):
    """Servers at URLs, run by others, which other users may keep busy as well."""

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient) -> None:
        super().__init__(model, http)
        self.size = len(model.urls)
        self._servers = [CogServer(url, http) for url in model.urls]
        self._lent: set[CogServer] = set()

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[CogServer]:
        """Lend the first server that is ready, in the order of the settings; the others are looked at again."""
        server = await self._first_ready()
        try:
            yield server
        finally:
            self._lent.discard(server)

    async def _first_ready(self) -> CogServer:
        told: dict[str, str] = {}
        while True:
            for server in self._servers:
                if server in self._lent:
                    continue
                self._lent.add(server)
                health = "GONE"
                try:
                    health = await server.health()
                finally:
                    if health != "READY":
                        self._lent.discard(server)
                if health == "READY":
                    return server
                if health != "BUSY" and told.get(server.url) != health:
                    told[server.url] = health
                    LOG.warning("%s: the Cog server at %s is %s", self.model.name, server.url, health)
            await asyncio.sleep(_LOOK_AGAIN)

    async def close(self) -> None:
        """Leave them as they are: others started them."""

    async def about(self) -> tuple[dict[str, Any], str]:
        """Ask the servers in turn, busy ones too."""
        last: CogError = Gone("there is no Cog server")
        for server in self._servers:
            try:
                return await _ask(server, self.model.cog_version)
            except CogError as error:
                last = error
        raise last


class Native(Workers):
    """One process of our own."""

    size = 1

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient, *, idle: float) -> None:
        super().__init__(model, http)
        self._idle = idle
        self._process: NativeCog | None = None
        self._lock = asyncio.Lock()  # held by who has the server, or starts or stops it
        self._stopping: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[CogServer]:
        """Lend the server, started first where it does not run or is broken."""
        async with self._lock:
            if self._stopping is not None:
                self._stopping.cancel()
            try:
                yield await self._ready()
            finally:
                self._stopping = asyncio.create_task(self._stop_when_idle())

    async def _ready(self) -> CogServer:
        since = time.monotonic()
        while self._process is not None:
            health = await self._process.health()
            if health == "READY" and self._process.server is not None:
                return self._process.server
            # Started for somebody who did not wait for it, or still with a prediction that was given up.
            if health == "STARTING" or (health == "BUSY" and time.monotonic() < since + _LET_GO_SECONDS):
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

    async def about(self) -> tuple[dict[str, Any], str]:
        """Ask the server, busy or not; start it where it does not run."""
        if self._process is not None and self._process.server is not None:
            return await _ask(self._process.server, self.model.cog_version)
        async with self.lend() as server:
            return await _ask(server, self.model.cog_version)

    async def close(self) -> None:
        """Stop the process, whoever has it."""
        if self._stopping is not None:
            self._stopping.cancel()
        await self._stop()
