"""The Cog servers of one model: a native process, or servers at given URLs. Each is lent to one prediction at a time.

The state of a server is asked before it is lent, unless a prediction has just succeeded there.

The native process starts when it is first needed, restarts after a crash, and stops when it is idle. Its stdin is a
pipe, so it exits when this process ends for any reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from predictions_api.run.cog_client import CogClient, CogError, NotReady, Unreachable
from predictions_api.run.native import NativeCog, StartFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from predictions_api.settings import ModelSettings

LOG = logging.getLogger("predictions_api.workers")
_POLL_INTERVAL = 1.0  # seconds between two health checks of servers that are not ready
_STATUS_TIMEOUT = 1.0  # seconds for a server to report its status
_RELEASE_TIMEOUT = 30.0  # seconds for an abandoned prediction to end before its server is restarted


class Workers(ABC):
    """The Cog servers of one model. `size`: how many can be lent at the same time."""

    size: int

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient) -> None:
        self.model = model
        self._http = http

    @abstractmethod
    def lend(self) -> contextlib.AbstractAsyncContextManager[CogClient]:
        """Lend a server to one prediction. Waits until one is available.

        Raises StartFailed, and NotReady if no server becomes ready within `setup_timeout`.
        """

    @abstractmethod
    async def status(self) -> str:
        """Return what the next prediction finds: `ready`, possibly busy, `starting`, or `cold` if no server runs."""

    @property
    @abstractmethod
    def urls(self) -> list[str]:
        """Return the URLs of the servers that run now."""

    @abstractmethod
    async def close(self) -> None:
        """Stop the servers that this process started."""

    @abstractmethod
    async def describe(self) -> tuple[dict[str, Any], str]:
        """Return the model's OpenAPI schema and the version of Cog, from one server. Raises CogError."""


def create_workers(
    model: ModelSettings, http: httpx.AsyncClient, *, idle: float, callback_url: str, setup_timeout: float = 600.0
) -> Workers:
    """Return the servers in a model's settings.

    A native one stops after `idle` seconds without a prediction. `setup_timeout`: seconds for a server to become ready.
    """
    if model.urls:
        return ExternalWorkers(model, http, setup_timeout=setup_timeout)
    return NativeWorkers(model, http, idle=idle, callback_url=callback_url, setup_timeout=setup_timeout)


async def _describe(client: CogClient, default: str) -> tuple[dict[str, Any], str]:
    return await client.schema(), await client.cog_version() or default


class ExternalWorkers(Workers):
    """Servers at URLs, not started by this process. Others may use them, too."""

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient, *, setup_timeout: float) -> None:
        super().__init__(model, http)
        self.size = len(model.urls)
        self._setup_timeout = setup_timeout
        self._clients = [CogClient(url, http) for url in model.urls]
        self._lent_clients: set[CogClient] = set()
        self._return_event = asyncio.Event()

    async def status(self) -> str:
        """Return the best status of all servers. Those that were not ready a moment ago are asked."""
        unsure = [client for client in self._clients if not (client in self._lent_clients or client.is_surely_ready)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATUS_TIMEOUT):
                await asyncio.gather(*(client.health() for client in unsure))
        states = {client.state for client in self._clients}
        return "ready" if states & {"READY", "BUSY"} else "starting" if "STARTING" in states else "cold"

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[CogClient]:
        """Lend the first ready server, in the order of the settings."""
        client = await self._wait_for_ready()
        try:
            yield client
        finally:
            self._lent_clients.discard(client)
            self._return_event.set()

    async def _wait_for_ready(self) -> CogClient:
        unavailable_since = time.monotonic()
        while True:
            self._return_event.clear()
            for client in self._clients:
                if client not in self._lent_clients and await self._take_if_ready(client):
                    return client
            if self._lent_clients:  # one of them is ready in a moment
                unavailable_since = time.monotonic()
            elif time.monotonic() > unavailable_since + self._setup_timeout:
                states = ", ".join(f"{client.url} is {client.state}" for client in self._clients)
                raise NotReady(f"no Cog server became ready within {self._setup_timeout:g} s: {states}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._return_event.wait(), _POLL_INTERVAL)

    async def _take_if_ready(self, client: CogClient) -> bool:
        self._lent_clients.add(client)
        is_ready, previous = client.is_surely_ready, client.state
        try:
            is_ready = is_ready or await client.health() == "READY"
        finally:
            if not is_ready:
                self._lent_clients.discard(client)
        if client.state not in ("READY", "BUSY", previous):
            LOG.warning("%s: the Cog server at %s is %s", self.model.name, client.url, client.state)
        return is_ready

    @property
    def urls(self) -> list[str]:
        return [client.url for client in self._clients]

    async def close(self) -> None:
        """Do nothing, as this process did not start the servers."""

    async def describe(self) -> tuple[dict[str, Any], str]:
        """Return the answer of the first server that answers, busy or not."""
        last_error: CogError = Unreachable("there is no Cog server")
        for client in self._clients:
            try:
                return await _describe(client, self.model.cog_version)
            except CogError as error:
                last_error = error
        raise last_error


class NativeWorkers(Workers):
    """One process, started by this one."""

    size = 1

    def __init__(
        self, model: ModelSettings, http: httpx.AsyncClient, *, idle: float, callback_url: str, setup_timeout: float
    ) -> None:
        super().__init__(model, http)
        self._idle = idle
        self._callback_url = callback_url
        self._setup_timeout = setup_timeout
        self._process: NativeCog | None = None
        self._lock = asyncio.Lock()  # held while the server is lent, started or stopped
        self._idle_timer: asyncio.Task[None] | None = None

    async def status(self) -> str:
        if self._process is None or self._process.has_ended:
            return "cold"
        return "starting" if self._process.client is None else "ready"

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[CogClient]:
        """Lend the server. It is started first if it is not running, and restarted if it has failed."""
        async with self._lock:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            try:
                yield await self._start_or_reuse()
            finally:
                self._idle_timer = asyncio.create_task(self._stop_when_idle())

    async def _start_or_reuse(self) -> CogClient:
        began = time.monotonic()
        while self._process is not None:
            client = self._process.client
            if client is not None and client.is_surely_ready and not self._process.has_ended:
                return client
            health = await self._process.health()
            if health == "READY":
                continue
            # Started for a prediction that was canceled meanwhile, or still running one that was abandoned.
            patience = {"STARTING": self._setup_timeout, "BUSY": _RELEASE_TIMEOUT}.get(health, 0.0)
            if time.monotonic() < began + patience:
                await asyncio.sleep(0.05)
            else:
                LOG.warning("%s: the Cog server is %s; restarting it", self.model.name, health)
                await self._stop()
        self._process = NativeCog(self.model, self._http, self._callback_url)
        try:
            async with asyncio.timeout(self._setup_timeout):
                return await self._process.start()
        except StartFailed:
            self._process = None
            raise
        except TimeoutError:
            await self._stop()
            raise StartFailed(
                f"the Cog server of {self.model.name} was stopped, as it was not ready within {self._setup_timeout:g} s"
            ) from None

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
        """Return the answer of the server, busy or not. It is started if it is not running."""
        if self._process is not None and self._process.client is not None:
            return await _describe(self._process.client, self.model.cog_version)
        async with self.lend() as client:
            return await _describe(client, self.model.cog_version)

    @property
    def urls(self) -> list[str]:
        client = None if self._process is None else self._process.client
        return [] if client is None else [client.url]

    async def close(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        await self._stop()
