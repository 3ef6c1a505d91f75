"""Cog's own prediction server, started natively in a model's directory as an image starts it, and a client of it.

Serves one model at a time per object; choosing inputs and writing outputs is the caller's. See `cog_local.schema` for the
schema that the server validates with.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from cog_local.schema import openapi_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

HOST = "127.0.0.1"
_SLOT_SECONDS = 5.0  # Cog answers a prediction a moment before it takes the next one
_STOP_SECONDS = 20.0  # a prediction has this long to end when cancelled, and the server then, before it is killed
_CANCEL_AGAIN_SECONDS = 3.0  # coglet 0.23.1 loses a cancel that comes just as a prediction starts


class ServerError(Exception):
    """The server did not start, or went away; the text ends with the last lines that nobody was shown."""


class GivenUp(Exception):
    """The caller's `give_up` was set while the server was starting."""


class CogServer:
    """A running Cog server for one model; a context manager that leaves no process and no file behind.

    `weights` is "demo", "full" or a directory. `port` 0 takes a free one; `.port` tells which. `on_log` is called,
    from another thread, with each line that the model prints in set-up and predictions, as it comes. `give_up`, when
    set, ends the wait for a start with GivenUp. `python` is the interpreter whose environment has cog and the model's
    packages.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        port: int = 0,
        env: Mapping[str, str] | None = None,
        weights: str = "demo",
        on_log: Callable[[str], None] | None = None,
        give_up: threading.Event | None = None,
        python: Path = Path(sys.executable),
        ready_seconds: float = 3600.0,
    ) -> None:
        self.model_dir = model_dir.resolve()
        self.port = port
        self._weights = weights if weights in ("demo", "full") else str(Path(weights).resolve())
        self._env = dict(env or {})
        self._on_log = on_log
        self._python = python
        self._ready_seconds = ready_seconds
        self._give_up = give_up or threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._cleanup = contextlib.ExitStack()
        self._last_lines: deque[str] = deque(maxlen=40)
        self._worker_failed = threading.Event()
        self._asking = 0  # calls of `predict` that have not returned
        self._latest: str | None = None  # the last prediction, also one that another client asked for

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Write the schema, start the server and wait until it is ready.

        Raises SchemaError for a predict.py that Cog would misread, ServerError for one that cannot be set up.
        """
        write_schema(self.model_dir)
        self.port = _free_port(self.port)
        temporary = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cog-server-"))
        alive, held = os.pipe()
        self._cleanup.callback(os.close, alive)
        try:
            self._process = process = subprocess.Popen(
                [str(self._python), "-m", "cog.server.http", "--host", HOST],
                cwd=self.model_dir,
                env=self._environment(temporary),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches the caller alone, who cancels first
                pass_fds=[held],  # closes when the last process of the group is gone
            )
        finally:
            os.close(held)
        reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reader.start()
        self._cleanup.callback(reader.join)
        self._cleanup.callback(_end_group, process, alive)
        self._cleanup.callback(self._cancel_running)
        self._wait_until_ready()

    def stop(self) -> None:
        """Cancel what runs, end the server and all that it started, and remove their temporary files."""
        self._cleanup.close()

    def _cancel_running(self) -> None:
        """Cancel the prediction that runs, also another client's, and wait for its end; the server alone would not."""
        began, asked = time.monotonic(), -math.inf
        with contextlib.suppress(ServerError):  # it is gone
            while self._latest is not None and time.monotonic() < began + _STOP_SECONDS:
                if not self._asking and self.get("/health-check")["status"] != "BUSY":
                    return
                if time.monotonic() > asked + _CANCEL_AGAIN_SECONDS and self.cancel(self._latest):
                    asked = time.monotonic()
                time.sleep(0.02)

    def _environment(self, temporary: str) -> dict[str, str]:
        return {
            **os.environ,
            # The server starts its worker with the first `python` on the path.
            "PATH": f"{self._python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "TMPDIR": temporary,
            "PORT": str(self.port),
            "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
            "WEIGHTS": self._weights,
            **self._env,
        }

    def check(self) -> None:
        """Raise ServerError if the server has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            self._fail(f"the server ended with status {self._process.returncode}")

    def predict(self, inputs: Mapping[str, Any], prediction_id: str | None = None) -> dict[str, Any]:
        """Run one prediction and return the server's answer to it.

        Without a `status` (succeeded, failed, canceled) in it the inputs were refused: `detail` says why.
        """
        self._latest = name = prediction_id or uuid.uuid4().hex
        self._asking += 1
        body = {"id": name, "input": dict(inputs)}
        deadline = time.monotonic() + _SLOT_SECONDS
        try:
            while True:
                status, answer = self._request("PUT", f"/predictions/{name}", body, seconds=None)
                if status != http.HTTPStatus.CONFLICT or time.monotonic() > deadline:
                    return answer
                time.sleep(0.02)
        finally:
            self._asking -= 1

    def cancel(self, prediction_id: str) -> bool:
        """Ask for a prediction to be cancelled, and tell whether it runs; `predict` returns when it has ended."""
        return self._request("POST", f"/predictions/{prediction_id}/cancel", {})[0] == http.HTTPStatus.OK

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON at `path`, for example /openapi.json or /health-check."""
        return self._request("GET", path)[1]

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, seconds: float | None = 10.0
    ) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=seconds)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServerError(f"{self.model_dir.name}: the server does not answer: {error!r}") from error
        finally:
            connection.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._ready_seconds
        while True:
            self.check()
            if self._give_up.is_set():
                raise GivenUp
            if self._worker_failed.wait(0.05):
                self._fail("the server's worker did not start")
            try:
                health = self.get("/health-check")
            except ServerError:
                health = {"status": "STARTING"}  # its port is not open yet
            if health["status"] == "READY":
                return
            if health["status"] not in ("STARTING", "UNKNOWN"):
                self._fail(f"set-up failed: {health['setup']['logs'].rpartition('etup failed: ')[2]}")
            if time.monotonic() > deadline:
                self._fail(f"not ready after {self._ready_seconds:.0f} s")

    def _fail(self, text: str) -> NoReturn:
        """Raise ServerError with a text and the last lines, of which all have come when the server is stopped."""
        self.stop()
        raise ServerError("\n  ".join([f"{self.model_dir.name}: {text}", *self._last_lines]))

    def _read(self, lines: IO[str]) -> None:
        """Pass on what the model prints; keep for messages what nobody has been shown."""
        with lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                    fields, target = entry["fields"], entry["target"]
                except (ValueError, TypeError, KeyError):
                    self._last_lines.append(line.rstrip())
                    # The server captures a working worker's output: a bare traceback is one that died at its start.
                    if line.startswith("Traceback "):
                        self._worker_failed.set()
                    continue
                self._latest = fields.get("prediction_id", self._latest)
                if "source" not in fields and target != "coglet::user":
                    continue  # the server's own; what a set-up prints last comes as `user` when it comes late
                if self._on_log is None:
                    self._last_lines.append(fields["message"])
                else:
                    self._on_log(fields["message"])


def write_schema(model_dir: Path) -> None:
    """Write `.cog/openapi_schema.json` into a model's directory, as `cog build` does."""
    target = model_dir / ".cog" / "openapi_schema.json"
    text = json.dumps(openapi_schema(model_dir / "predict.py"))
    target.parent.mkdir(exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text, "utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _free_port(wanted: int) -> int:
    """Return `wanted`, or a free port for 0; raise ServerError where something listens already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError as error:
            raise ServerError(f"port {wanted} of {HOST} cannot be used: {error.strerror}") from error
        port: int = probe.getsockname()[1]
        return port


def _end_group(process: subprocess.Popen[str], alive: int) -> None:
    """End a server and all that it started; `alive` is a pipe that closes when the last of them is gone."""
    process.terminate()  # the server alone: it ends its worker in order, whose exit handlers then run
    select.select([alive], [], [], _STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left (PermissionError: macOS)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
