"""Start, watch and stop the process of one native Cog server.

When the model's command is ready, it prints a line that ends with "is ready at URL" on stdout. Its log goes to stderr.
The command exits when its stdin closes, so it never outlives this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from predictions_api.run.cog_client import CogClient, CogError
from predictions_api.run.tasks import first_result
from predictions_api.settings import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from predictions_api.settings import ModelSettings

LOG = logging.getLogger("predictions_api.native")
# Seconds after closing stdin, for commands that do not end by that.
_STOP_SIGNALS = ((5.0, signal.SIGTERM), (40.0, signal.SIGKILL))
_EXIT_INTERVAL = 0.1  # seconds between two looks at the process
_MAX_LINE = 65536  # bytes; a longer line is split
_READY_LINE = re.compile(r"is ready at (https?://\S+)$")


def _environment(callback_url: str) -> dict[str, str]:
    """Return the environment of this process without its secrets, as a model may be untrusted code.

    A proxy is not used for callbacks, nor for the files of this server.
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if name != "REPLICATE_API_TOKEN" and not name.startswith(("DBOS", "PG"))
    }
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    hosts = [*filter(None, given.split(",")), *LOOPBACK, urlsplit(callback_url).hostname or ""]
    return {**environ, **dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(dict.fromkeys(hosts)))}


class StartFailed(CogError):
    """A native Cog server did not start. The text ends with the last lines that it printed."""


class NativeCog:
    """The process of a model's command. `client` is set when it is ready."""

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient, callback_url: str) -> None:
        self.client: CogClient | None = None
        self._model = model
        self._http = http
        self._callback_url = callback_url
        self._process: asyncio.subprocess.Process | None = None
        self._creation_event = asyncio.Event()  # set when there is a process, or none can be created
        self._start_event = asyncio.Event()  # set when it is ready or has ended
        self._exit_event = asyncio.Event()
        self._last_lines: deque[str] = deque(maxlen=20)
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> CogClient:
        """Start the process and wait until it is ready. Raises StartFailed.

        If the caller is canceled, the process continues to start.
        """
        LOG.info("%s: starting %s", self._model.name, " ".join(self._model.command))
        self._runner = asyncio.create_task(self._run())
        await self._start_event.wait()
        if self.client is None:
            raise StartFailed("\n".join([f"the Cog server of {self._model.name} did not start", *self._last_lines]))
        return self.client

    @property
    def has_ended(self) -> bool:
        return self._exit_event.is_set()

    async def health(self) -> str:
        """Return the status of the server: STARTING before it is ready, GONE when the process has ended."""
        if self._exit_event.is_set():
            return "GONE"
        return "STARTING" if self.client is None else await self.client.health()

    async def stop(self) -> None:
        """Stop the process. It is killed if that takes too long."""
        await self._creation_event.wait()  # a cancel of the creation would kill the process without its child processes
        if self._process is None or self._exit_event.is_set():
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        for seconds, stop_signal in _STOP_SIGNALS:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exit_event.wait(), seconds)
                return
            LOG.warning("%s: the Cog server does not end; sending it %s", self._model.name, stop_signal.name)
            self._signal_group(self._process.pid, stop_signal)
        await self._exit_event.wait()

    async def _run(self) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._model.command,
                env=_environment(self._callback_url),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches only this process, which then stops the server
            )
        except OSError as error:
            self._last_lines.append(f"{self._model.command[0]} cannot be started: {error}")
        finally:
            self._creation_event.set()
        if self._process is not None:
            await self._watch(self._process)
        self._exit_event.set()
        self._start_event.set()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Read what the process prints until it has ended, and end what it has left."""
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            asyncio.create_task(self._read_stdout(process.stdout)),
            asyncio.create_task(self._read_stderr(process.stderr)),
        ]
        while (code := process.returncode) is None:
            await asyncio.sleep(_EXIT_INTERVAL)  # process.wait() waits for child processes that hold a pipe, too
        self._signal_group(process.pid, signal.SIGKILL)  # what the command has left
        _, unread = await asyncio.wait(readers, timeout=1.0)  # last lines; a child process may hold the pipe
        for reader in unread:
            reader.cancel()
        LOG.info("%s: the Cog server ended with status %d", self._model.name, code)

    @staticmethod
    def _signal_group(leader: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended (PermissionError: macOS)
            os.killpg(leader, number)

    async def _read_stdout(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            if self.client is None and (match := _READY_LINE.search(line)):
                LOG.info("%s: %s", self._model.name, line)
                self.client = _NativeCogClient(match[1], self._http, self._exit_event, self._last_lines)
                self._start_event.set()

    async def _read_stderr(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            self._last_lines.append(line)
            LOG.info("%s: %s", self._model.name, line)


class _NativeCogClient(CogClient):
    """The client of a native server. The end of its process is noticed at once."""

    def __init__(self, url: str, http: httpx.AsyncClient, exit_event: asyncio.Event, last_lines: deque[str]) -> None:
        super().__init__(url, http)
        self._exit_event = exit_event
        self._last_lines = last_lines

    async def wait_for_failure(self) -> str:
        return await first_result(super().wait_for_failure(), self._wait_for_exit())

    async def _wait_for_exit(self) -> str:
        await self._exit_event.wait()
        return "\n".join(["the model's Cog server ended while it ran this prediction", *list(self._last_lines)[-5:]])


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield the lines of a stream. asyncio's readline raises an error for long lines."""
    rest = b""
    while chunk := await stream.read(_MAX_LINE):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace").rstrip()
        if len(rest) > _MAX_LINE:
            yield rest.decode("utf-8", "replace")
            rest = b""
    if rest:
        yield rest.decode("utf-8", "replace")
