"""Connections: a request's head has to arrive in time, its body and answer may take longer."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import pytest
import uvicorn
from predictions_api.__main__ import OPTIONS
from predictions_api.http.connections import HEAD_TIMEOUT, HeadTimeout

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
whole_heads: SimpleQueue[None] = SimpleQueue()  # gets an entry for each


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer 200 with the body of the request."""
    whole_heads.put(None)
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


IMPLEMENTATIONS = ["h11_impl.H11Protocol"]
if importlib.util.find_spec("httptools"):
    IMPLEMENTATIONS.append("httptools_impl.HttpToolsProtocol")


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time a test sets forward."""

    seconds = 0.0

    def time(self) -> float:
        return super().time() + self.seconds

    def set_forward(self, seconds: float) -> None:
        """Return when the timers that have then expired have been called."""

        async def expire() -> None:
            self.seconds += seconds
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(expire(), self).result(60)


@dataclass
class Running:
    """A server, and the clock of its timers."""

    port: int
    clock: Clock


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    module, name = request.param.split(".")
    implementation = getattr(importlib.import_module(f"uvicorn.protocols.http.{module}"), name)
    protocol = type("Protocol", (HeadTimeout, implementation), {})
    listener = socket.create_server(("127.0.0.1", 0))
    # An idle connection is kept for longer than the clock is set forward.
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, timeout_keep_alive=3600)
    uvicorn_server, clock = uvicorn.Server(config), Clock()
    thread = threading.Thread(target=clock.run_until_complete, args=(uvicorn_server.serve([listener]),))
    thread.start()
    yield Running(listener.getsockname()[1], clock)
    uvicorn_server.should_exit = True
    thread.join(60)
    clock.close()


@pytest.fixture
def connection(server: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as opened:
        yield opened


def is_closed(connection: socket.socket, server: Running) -> bool:
    """Set the clock forward until the server answers or closes the connection. Return whether it is closed."""
    deadline = time.monotonic() + 60
    connection.settimeout(0.1)
    while time.monotonic() < deadline:
        server.clock.set_forward(HEAD_TIMEOUT)
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            continue
    raise AssertionError("the connection is open after 60 s")


def read_answer(connection: socket.socket) -> bytes:
    """Return an answer whose body is abcd."""
    answer = b""
    while not answer.endswith(b"abcd"):
        part = connection.recv(1000)
        assert part, f"the server closed the connection after {answer!r}"
        answer += part
    return answer


def test_a_connection_without_a_request_is_closed(connection: socket.socket, server: Running) -> None:
    assert is_closed(connection, server)


def test_a_head_that_drips_is_closed(connection: socket.socket, server: Running) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nX-Slow: ")
    with pytest.raises(OSError, match=r"(?i)pipe|reset"):
        for _ in range(600):
            connection.sendall(b"a")
            server.clock.set_forward(HEAD_TIMEOUT / 10)
    assert is_closed(connection, server)


def test_half_a_head_after_a_whole_request_is_closed(connection: socket.socket, server: Running) -> None:
    connection.sendall(HEAD + b"abcd")
    assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
    connection.sendall(HEAD[:20])
    assert is_closed(connection, server)


def test_a_body_may_take_longer_than_a_head(connection: socket.socket, server: Running) -> None:
    while not whole_heads.empty():  # of other tests
        whole_heads.get()
    connection.sendall(HEAD + b"ab")
    whole_heads.get(timeout=60)
    server.clock.set_forward(3 * HEAD_TIMEOUT)
    connection.sendall(b"cd")
    assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_is_kept_between_requests(connection: socket.socket, server: Running) -> None:
    for _ in range(3):
        connection.sendall(HEAD + b"abcd")
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        server.clock.set_forward(2 * HEAD_TIMEOUT)


def test_a_head_of_more_than_64_kib_is_400(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\n")
    with contextlib.suppress(OSError):
        for _ in range(200):
            connection.sendall(b"X-Many: " + b"a" * 1000 + b"\r\n")
            time.sleep(0.001)
    assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_the_server_limits_the_time_of_a_head_to_30_seconds() -> None:
    assert issubclass(OPTIONS["http"], HeadTimeout)
    assert HEAD_TIMEOUT == 30
