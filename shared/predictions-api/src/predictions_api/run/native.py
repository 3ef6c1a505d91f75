"""One native Cog server: a process that a model's command starts, its address, its log, and its end.

The command prints one line that ends with "is ready at URL" on stdout when it is ready, its log on stderr, and ends
when its stdin closes: so it never outlives this process. When to start and to stop is workers.py's business.
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

from predictions_api.run.cog_client import CogClient, CogError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from predictions_api.settings import ModelSettings

LOG = logging.getLogger("predictions_api.native")
# After its stdin is closed: script/serve lets what runs end (20 s) and then Cog (20 s).
_STOP_SIGNALS = ((5.0, signal.SIGTERM), (40.0, signal.SIGKILL))
_MAX_LINE = 65536  # a longer line is cut into lines
_READY_LINE = re.compile(r"is ready at (https?://\S+)$")


def _environment() -> dict[str, str]:
    """Return this process's environment without its secrets: a model is code of others."""
    return {
        name: value
        for name, value in os.environ.items()
        if name != "REPLICATE_API_TOKEN" and not name.startswith(("DBOS", "PG"))
    }


class StartFailed(CogError):
    """A native Cog server did not start; the text ends with the last lines that it printed."""


class NativeCog:
    """The process of one model's command; `client` is set when it is ready."""

    def __init__(self, model: ModelSettings, http: httpx.AsyncClient) -> None:
        self.client: CogClient | None = None
        self._model = model
        self._http = http
        self._process: asyncio.subprocess.Process | None = None
        self._start_event = asyncio.Event()  # it is ready, or has ended
        self._exit_event = asyncio.Event()
        self._last_lines: deque[str] = deque(maxlen=20)
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> CogClient:
        """Start the process and wait until it is ready; raises StartFailed.

        Who stops waiting leaves a process that goes on starting.
        """
        LOG.info("%s: starting %s", self._model.name, " ".join(self._model.command))
        self._runner = asyncio.create_task(self._run())
        await self._start_event.wait()
        if self.client is None:
            raise StartFailed("\n".join([f"the Cog server of {self._model.name} did not start", *self._last_lines]))
        return self.client

    async def health(self) -> str:
        """Return what the server says of itself, STARTING before it is ready, GONE when the process has ended."""
        if self._exit_event.is_set():
            return "GONE"
        return "STARTING" if self.client is None else await self.client.health()

    async def stop(self) -> None:
        """End the process in order; kill it where that takes too long."""
        if self._process is None or self._exit_event.is_set():
            if self._runner is not None:
                self._runner.cancel()  # it has not got as far as a process
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        for seconds, then in _STOP_SIGNALS:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exit_event.wait(), seconds)
                return
            LOG.warning("%s: the Cog server does not end; sending it %s", self._model.name, then.name)
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(then)
        await self._exit_event.wait()

    async def _run(self) -> None:
        """Run the process from its start to its end."""
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._model.command,
                env=_environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops it in order
            )
        except OSError as error:
            self._last_lines.append(f"{self._model.command[0]} cannot be started: {error}")
        else:
            assert process.stdout is not None
            assert process.stderr is not None
            readers = [
                asyncio.create_task(self._read_stdout(process.stdout)),
                asyncio.create_task(self._read_stderr(process.stderr)),
            ]
            code = await process.wait()
            _, unread = await asyncio.wait(readers, timeout=1.0)  # its last words; a child of its own may hold the pipe
            for reader in unread:
                reader.cancel()
            LOG.info("%s: the Cog server ended with status %d", self._model.name, code)
        self._exit_event.set()
        self._start_event.set()

    async def _read_stdout(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            if self.client is None and (found := _READY_LINE.search(line)):
                LOG.info("%s: %s", self._model.name, line)
                self.client = _NativeCogClient(found[1], self._http, self._exit_event, self._last_lines)
                self._start_event.set()

    async def _read_stderr(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            self._last_lines.append(line)
            LOG.info("%s: %s", self._model.name, line)


class _NativeCogClient(CogClient):
    """A server whose process is ours: its end is seen at once."""

    def __init__(self, url: str, http: httpx.AsyncClient, exit_event: asyncio.Event, last_lines: deque[str]) -> None:
        super().__init__(url, http)
        self._exit_event = exit_event
        self._last_lines = last_lines

    async def wait_for_failure(self) -> str:
        """Return when the process has ended, or the server is broken, with the reason."""
        tasks = [asyncio.create_task(super().wait_for_failure()), asyncio.create_task(self._wait_for_exit())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()

    async def _wait_for_exit(self) -> str:
        await self._exit_event.wait()
        return "\n".join(["the model's Cog server ended while it ran this prediction", *list(self._last_lines)[-5:]])


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Give the lines of a stream; asyncio's own reader fails at long ones."""
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
