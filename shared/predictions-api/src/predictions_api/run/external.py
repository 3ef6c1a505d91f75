"""Cog servers at URLs, which others start and stop, and which others may use, too.

A URL `dns+http://NAME:PORT` stands for all addresses of a name, which is resolved again and again. A server whose
address has gone gets no new prediction. It counts until the prediction that it runs has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from typing import TYPE_CHECKING, Any, Final

import httpx

from predictions_api.run.cog_client import CogClient, CogError, Unreachable
from predictions_api.run.workers import NativeWorkers, Workers
from predictions_api.settings import DNS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from predictions_api.run.addresses import Resolver
    from predictions_api.settings import ModelSettings, Settings

LOG = logging.getLogger("predictions_api.workers")
RESOLVE_INTERVAL: Final = 5.0  # seconds between two look-ups of a name
_POLL_INTERVAL = 1.0  # seconds between two health checks of servers that are not ready
_STATUS_TIMEOUT = 2.0  # seconds for a server to report its status


class ExternalWorkers(Workers):
    """The Cog servers at a model's `urls`. Call `refresh` every second."""

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient, resolver: Resolver) -> None:
        super().__init__(model, http)
        self._resolver = resolver
        self._addresses = {url: [] if url.startswith(DNS) else [url] for url in model.urls}
        self._clients = [CogClient(url, http) for url in model.urls if not url.startswith(DNS)]
        self._drained_clients: set[CogClient] = set()
        self._lent_clients: set[CogClient] = set()
        self._return_event = asyncio.Event()
        self._resolved_at = -RESOLVE_INTERVAL
        self._available_at = time.monotonic()

    @property
    def size(self) -> int:
        """Return the number of servers that are ready or run a prediction."""
        return sum(
            client in self._lent_clients or client.state in ("READY", "BUSY")
            for client in (*self._clients, *self._drained_clients)
        )

    async def refresh(self) -> int:
        """Return `size` after a look at all servers. Every 5 s, names are looked up and ready servers asked."""
        size = self.size
        if time.monotonic() >= self._resolved_at + RESOLVE_INTERVAL:
            self._resolved_at = time.monotonic()
            await asyncio.gather(*(self._resolve(url) for url in self._addresses if url.startswith(DNS)))
            self._list_clients()
        ready = {client for client in self._clients if client.is_surely_ready}
        await asyncio.gather(*map(self._ask, {*self._clients, *self._drained_clients} - ready - self._lent_clients))
        self._drained_clients = {
            client for client in self._drained_clients if client in self._lent_clients or client.state == "BUSY"
        }
        if any(client in self._lent_clients or client.state == "READY" for client in self._clients):
            self._available_at = time.monotonic()
        if self.size != size:
            LOG.info("%s: %d Cog servers can run predictions", self.model.name, self.size)
        return self.size

    async def _resolve(self, url: str) -> None:
        """Look up the addresses of a name. Those of before stay if the name server does not answer."""
        name = httpx.URL(url.removeprefix(DNS))
        try:
            # Each process has an order of its own, so that two servers rarely choose the same Cog server.
            hosts = sorted(await self._resolver.resolve(name.host), key=hash)
        except OSError as error:
            if error.errno == socket.EAI_AGAIN:
                LOG.warning("%s: %s cannot be looked up: %s", self.model.name, name.host, error)
                return
            hosts = []
        self._addresses[url] = [str(name.copy_with(host=host)) for host in hosts]

    def _list_clients(self) -> None:
        known = {client.url: client for client in (*self._drained_clients, *self._clients)}
        urls = dict.fromkeys(url.rstrip("/") for urls in self._addresses.values() for url in urls)
        self._clients = [known.pop(url) if url in known else CogClient(url, self._http) for url in urls]
        for client in set(known.values()) - self._drained_clients:
            LOG.info("%s: draining the Cog server at %s", self.model.name, client.url)
        self._drained_clients = set(known.values())

    async def _ask(self, client: CogClient) -> str:
        previous = client.state
        try:
            async with asyncio.timeout(_STATUS_TIMEOUT):
                await client.health()
        except TimeoutError:
            client.note("GONE")
        if client.state not in ("READY", "BUSY", previous):
            LOG.warning("%s: the Cog server at %s is %s", self.model.name, client.url, client.state)
        return client.state

    def status(self) -> str:
        states = {client.state for client in self._clients}
        return "ready" if states & {"READY", "BUSY"} else "starting" if "STARTING" in states else "cold"

    def describe_outage(self, seconds: float) -> str | None:
        if time.monotonic() < self._available_at + seconds:
            return None
        states = [f"{client.url} is {client.state or 'not asked'}" for client in self._clients]
        return ", ".join(states or [f"{url} has no address" for url in self._addresses])

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
        while True:
            self._return_event.clear()
            for client in self._clients:
                if client not in self._lent_clients and await self._take_if_ready(client):
                    return client
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._return_event.wait(), _POLL_INTERVAL)

    async def _take_if_ready(self, client: CogClient) -> bool:
        self._lent_clients.add(client)
        is_ready = client.is_surely_ready
        try:
            is_ready = is_ready or await self._ask(client) == "READY"
        finally:
            if not is_ready:
                self._lent_clients.discard(client)
        return is_ready

    @property
    def urls(self) -> list[str]:
        return [client.url for client in (*self._clients, *self._drained_clients)]

    async def close(self) -> None:
        """Do nothing, as this process did not start the servers."""

    async def describe(self) -> tuple[dict[str, Any], str]:
        """Return the answer of the first server that answers, busy or not."""
        last_error: CogError = Unreachable("no Cog server has an address")
        for client in self._clients:
            try:
                return await self._describe(client)
            except CogError as error:
                last_error = error
        raise last_error


def create_workers(settings: Settings, http: httpx.AsyncClient, resolver: Resolver) -> dict[str, Workers]:
    """Return the workers of each model, by its name."""
    return {
        model.name: ExternalWorkers(model, http, resolver)
        if model.urls
        else NativeWorkers(
            model,
            http,
            idle=settings.idle,
            callback_url=settings.callback_url,
            setup_timeout=settings.setup_timeout,
        )
        for model in settings.models
    }
