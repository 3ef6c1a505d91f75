"""Limit the time and size of a request's head. uvicorn limits only the time between requests, and h11's heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    import asyncio

HEAD_TIMEOUT: Final = 30.0  # seconds from the connection or from the first byte of a later request
HEAD_SIZE: Final = 64 * 1024  # bytes


class HeadTimeout:
    """A mixin for uvicorn's protocols, with h11 or httptools. Both make a new `cycle` at the end of a head.

    A connection is closed after 30 s without a whole head, and answered 400 after 64 KiB.
    """

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    cycle: Any
    _head_timer: asyncio.TimerHandle | None = None  # runs while a head is expected
    _head_size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        cycle = self.cycle
        super().data_received(data)  # type: ignore[misc]
        if self.cycle is not cycle:
            self._stop_timer()
            return
        if self._head_timer is None and self.cycle.response_complete:
            self._start_timer()
        self._head_size += len(data)
        if self._head_timer is not None and self._head_size > HEAD_SIZE and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long")  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)  # type: ignore[misc]

    def _start_timer(self) -> None:
        self._head_size = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Protocol(HeadTimeout, AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol with the limit: httptools if it is installed, else h11."""
