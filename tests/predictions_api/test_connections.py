"""Connections: a request's head has to arrive in time, its body and answer may take longer."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from predictions_api.__main__ import OPTIONS
from predictions_api.http.connections import HEAD_TIMEOUT, HeadTimeout

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer 200 with the body of the request."""
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


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run a server whose heads have 0.3 s."""
    module, name = request.param.split(".")
    implementation = getattr(importlib.import_module(f"uvicorn.protocols.http.{module}"), name)
    protocol = type("Protocol", (HeadTimeout, implementation), {})
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, args=([listener],))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("predictions_api.http.connections.HEAD_TIMEOUT", 0.3)
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(60)


@pytest.fixture
def connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as opened:
        yield opened


def is_closed(connection: socket.socket) -> bool:
    """Wait for the server. Return whether it closes the connection without an answer."""
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


def read_answer(connection: socket.socket) -> bytes:
    """Return an answer whose body is abcd."""
    answer = b""
    while not answer.endswith(b"abcd"):
        part = connection.recv(1000)
        assert part, f"the server closed the connection after {answer!r}"
        answer += part
    return answer


def test_a_connection_without_a_request_is_closed(connection: socket.socket) -> None:
    assert is_closed(connection)


def test_a_head_that_drips_is_closed(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nX-Slow: ")
    with pytest.raises(OSError, match=r"(?i)pipe|reset"):
        for _ in range(600):
            connection.sendall(b"a")
            time.sleep(0.05)
    assert is_closed(connection)


def test_half_a_head_after_a_whole_request_is_closed(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"abcd")
    assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
    connection.sendall(HEAD[:20])
    assert is_closed(connection)


def test_a_body_may_take_longer_than_a_head(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"ab")
    time.sleep(0.9)
    connection.sendall(b"cd")
    assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_is_kept_between_requests(connection: socket.socket) -> None:
    for _ in range(3):
        connection.sendall(HEAD + b"abcd")
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        time.sleep(0.6)


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
