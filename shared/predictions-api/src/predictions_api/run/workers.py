"""The Cog servers of one model: a native process here, or servers at URLs in external.py.

Each is lent to one prediction at a time. The native process starts when it is first needed, restarts after a crash, and
stops when it is idle. Its stdin is a pipe, so it exits when this process ends for any reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from predictions_api.run.native import NativeCog, StartFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from predictions_api.run.cog_client import CogClient
    from predictions_api.settings import ModelSettings

LOG = logging.getLogger("predictions_api.workers")
_RELEASE_TIMEOUT = 30.0  # seconds for an abandoned prediction to end before its server is restarted


class Workers(ABC):
    """The Cog servers of one model."""

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient) -> None:
        self.model = model
        self._http = http

    @abstractmethod
    def lend(self) -> contextlib.AbstractAsyncContextManager[CogClient]:
        """Lend a server to one prediction. Waits until one is available. Raises StartFailed."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Return how many can be lent at the same time."""

    @abstractmethod
    def status(self) -> str:
        """Return what the next prediction finds: `ready`, possibly busy, `starting`, or `cold` if no server runs."""

    @property
    @abstractmethod
    def urls(self) -> list[str]:
        """Return the URLs of the servers that run now."""

    @abstractmethod
    async def close(self) -> None:
        """Stop the servers that this process started."""

    async def refresh(self) -> int:
        """Return `size` after a look at the servers that run now."""
        return self.size

    def describe_outage(self, seconds: float) -> str | None:
        """Return the servers and their states if none has been available for so many seconds, or None."""
        return None

    @abstractmethod
    async def describe(self) -> tuple[dict[str, Any], str]:
        """Return the model's OpenAPI schema and the version of Cog, from one server. Raises CogError."""

    async def _describe(self, client: CogClient) -> tuple[dict[str, Any], str]:
        return await client.schema(), await client.cog_version() or self.model.cog_version


class NativeWorkers(Workers):
    """One process, started by this one.

    It stops after `idle` seconds without a prediction. `setup_timeout`: seconds for it to become ready.
    """

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

    def status(self) -> str:
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
            return await self._describe(self._process.client)
        async with self.lend() as client:
            return await self._describe(client)

    @property
    def urls(self) -> list[str]:
        client = None if self._process is None else self._process.client
        return [] if client is None else [client.url]

    async def close(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        await self._stop()
