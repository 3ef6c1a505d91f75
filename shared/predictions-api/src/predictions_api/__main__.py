"""Run a server until Ctrl-C or SIGTERM. It prints its address on stdout when it is ready, and its log on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from predictions_api import logs
from predictions_api.app import create_app
from predictions_api.configuration import BadConfiguration, parser, read_settings
from predictions_api.errors import StartFault
from predictions_api.http.connections import HEAD_SIZE, Protocol
from predictions_api.run.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predictions_api.settings import Settings

OPTIONS: dict[str, Any] = {
    "http": Protocol,
    "log_config": None,
    "access_log": False,
    "server_header": False,
    # Longer than clients keep idle connections (httpx: 5 s), so that the server does not close one during a request.
    "timeout_keep_alive": 75,
    "timeout_graceful_shutdown": 5,  # seconds for open requests
    "h11_max_incomplete_event_size": HEAD_SIZE,
}


class BaseServer(uvicorn.Server):
    """A uvicorn server that closes idle connections when it stops, also those accepted during the shutdown."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        close_task = asyncio.create_task(self._close_connections())
        try:
            await super().shutdown(sockets)
        finally:
            close_task.cancel()

    async def _close_connections(self) -> None:
        while True:  # uvicorn does this once, and waits for later connections until its timeout
            await asyncio.sleep(0.1)
            for connection in list(self.server_state.connections):
                connection.shutdown()


class InnerServer(BaseServer):
    """Serves the application on loopback without TLS, for Cog servers, which do not trust the certificate."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing, as the outer server handles signals."""
        yield


class Server(BaseServer):
    """The server. With TLS it has an inner server for callbacks. It prints its address when it is ready."""

    def __init__(self, config: uvicorn.Config, service: Service, inner: socket.socket | None) -> None:
        super().__init__(config)
        self.settings = service.settings
        self.fault: Exception | None = None  # why it did not start
        self._service = service
        self._socket = inner
        self._inner = InnerServer(uvicorn.Config(config.app, lifespan="off", **OPTIONS))
        self._inner_task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self._service.open()
        except (StartFault, OSError) as fault:
            self.fault = fault
            self.should_exit = True
            return
        await super().startup(sockets)
        if self._socket is not None:
            self._inner_task = asyncio.create_task(self._inner.serve([self._socket]))
        access = "with a token" if self.settings.needs_token else "without a token, for this machine only"
        base = self.settings.default_base
        _print(f"The predictions API is ready at {base} ({access})")
        _print(f"{base}/ is its page for browsers; its models are {', '.join(m.name for m in self.settings.models)}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        handing_over = asyncio.create_task(self._service.hand_over())  # so that open requests are answered
        if self._inner_task is not None:
            self._inner.should_exit = True
            await self._inner_task
        await super().shutdown(sockets)
        await handing_over
        await self._service.close()


def main() -> int:
    """Run the server. Return 0, 1 if it did not start, or 2 if the configuration is invalid."""
    _open_missing_streams()
    arguments = parser().parse_args()
    try:
        settings = read_settings(arguments, os.environ)
        _check_certificate(settings)
        _check_schemas(settings)
        listener = _listen(settings.host, settings.port)
        inner = _listen("127.0.0.1", 0) if settings.certfile and not settings.internal_url else None
        settings = dataclasses.replace(settings, port=listener.getsockname()[1])
        if inner is not None:
            settings = dataclasses.replace(settings, internal_url=f"http://127.0.0.1:{inner.getsockname()[1]}")
        service = _create_service(settings)
        app = create_app(service)
    except (BadConfiguration, OSError) as error:
        sys.stderr.write(f"predictions_api: {error}\n")
        return 2
    logs.set_up(arguments.log_level)
    config = uvicorn.Config(
        app, lifespan="off", ssl_certfile=settings.certfile, ssl_keyfile=settings.keyfile, **OPTIONS
    )
    server = Server(config, service, inner)
    try:
        server.run([listener])
    except KeyboardInterrupt:  # uvicorn repeats the signal that has ended it
        return 130
    if server.fault is not None:
        sys.stderr.write(f"predictions_api: {server.fault}\n")
    return 0 if server.started else 1


def _create_service(settings: Settings) -> Service:
    """Return the service of a server. Raises BadConfiguration for a database whose driver is missing."""
    try:
        return Service(settings)
    except (SQLAlchemyError, ImportError) as error:
        known = "postgresql+psycopg://user:password@host/name"
        raise BadConfiguration(f"database: {error}; give {known}, or omit it for SQLite") from error


def _check_schemas(settings: Settings) -> None:
    """Raise BadConfiguration if a schema that is named is not there. Without it, a model answers nothing."""
    for model in settings.models:
        if model.schema is not None and not model.schema.is_file():
            raise BadConfiguration(
                f"schema is {str(model.schema)!r}, which is not a file; copy {model.name}'s openapi.json"
            )


def _check_certificate(settings: Settings) -> None:
    if settings.certfile and settings.keyfile:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certfile, settings.keyfile)
        except OSError as error:
            raise BadConfiguration(
                f"certfile {settings.certfile} and keyfile {settings.keyfile} cannot be used: {error.strerror or error}"
            ) from error


def _open_missing_streams() -> None:
    """Open /dev/null as stdin, stdout and stderr where they are closed, so that no socket gets their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _print(line: str) -> None:
    """Print a line on stdout, if it can be written."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError:  # then the rest, too, as Python writes it at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With IPPROTO_TCP, as asyncio sets TCP_NODELAY only for such sockets. Without it an answer takes 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror}") from error
    return listener


if __name__ == "__main__":
    sys.exit(main())
