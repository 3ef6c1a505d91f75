"""Cog's own prediction server, started natively in a model's directory as an image starts it, and a client of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from terminal import leave_signals_to_the_main_thread
from videokit.files import atomic_write

from cog_local.ports import HOST, reserved_port
from cog_local.schema import read_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

SESSION = Path(__file__).with_name("session.py")
_READY_SECONDS = 3600.0
_SLOT_SECONDS = 5.0  # Cog answers a prediction a moment before it accepts the next one


class ServerError(Exception):
    """The server did not start, or has ended. The text ends with its last lines that `on_log` did not get."""


class CogServer:
    """A running Cog server for one model: a context manager that leaves no process and no file behind.

    Its processes are killed at the end of the block, without a wait for their exit handlers.

    port: 0 picks a free port, which is then the attribute `port`.
    weights: "demo", "full" or a directory.
    on_log: called from another thread with each line that the model prints in set-up and predictions.
    python: the interpreter whose environment has cog and the model's packages.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        port: int = 0,
        env: Mapping[str, str] | None = None,
        weights: str = "demo",
        on_log: Callable[[str], None] | None = None,
        python: Path = Path(sys.executable),
    ) -> None:
        self.model_dir = model_dir.resolve()
        self.port = port
        self._weights = weights if weights in ("demo", "full") else str(Path(weights).resolve())
        self._env = dict(env or {})
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._cleanup = contextlib.ExitStack()
        self._last_lines: deque[str] = deque(maxlen=40)
        self._on_log = on_log or self._last_lines.append
        self._worker_failed = threading.Event()

    def __enter__(self) -> Self:
        """Start the server and wait until it is ready.

        Raises SchemaError for a model without openapi.json, ServerError for one whose set-up fails.
        """
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes of the server and remove their temporary files."""
        self._cleanup.close()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _start(self) -> None:
        _copy_schema(self.model_dir)
        try:
            self.port = self._cleanup.enter_context(reserved_port(self.port))
        except OSError as error:
            raise ServerError(f"port {self.port} of {HOST} cannot be used: {error.strerror}") from error
        temporary = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cog-server-"))
        environ = {
            **os.environ,
            # The server starts its worker with the first `python` on the path.
            "PATH": f"{self._python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "TMPDIR": temporary,
            "PORT": str(self.port),
            "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
            "WEIGHTS": self._weights,
            **self._env,
        }
        command = [str(self._python), "-m", "cog.server.http", "--host", HOST]
        parent_pipe, own_end = os.pipe()  # closes when this process ends, also by SIGKILL
        read_end, output = os.pipe()
        try:
            lines = os.fdopen(read_end, encoding="utf-8", errors="replace")
            reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
            reader.start()
            self._cleanup.callback(reader.join)  # until the last process of the group has closed its output
            self._cleanup.callback(os.close, own_end)  # which ends the group, also if the start is interrupted
            self._process = subprocess.Popen(
                [str(self._python), str(SESSION), str(parent_pipe), temporary, *command],
                cwd=self.model_dir,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the caller, which ends all processes of this one
                pass_fds=[parent_pipe, output],  # `output` is kept by processes whose stdout is another
            )
        finally:  # also of Ctrl-C before the process starts, as `reader` would wait for this end of its pipe
            os.close(parent_pipe)
            os.close(output)
        self._cleanup.callback(_kill_group, self._process)

    def check(self) -> None:
        """Raise ServerError if the server has ended."""
        if self._process is not None and self._process.poll() is not None:
            self._fail(f"the server ended with status {self._process.returncode}")

    def predict(self, inputs: Mapping[str, Any], prediction_id: str | None = None) -> dict[str, Any]:
        """Run one prediction and return the server's answer.

        The answer has a `status` (succeeded, failed, canceled), or the faults of the inputs as `detail`.
        """
        name = prediction_id or uuid.uuid4().hex
        body = {"id": name, "input": dict(inputs)}
        deadline = time.monotonic() + _SLOT_SECONDS
        while True:
            status, answer = self._request("PUT", f"/predictions/{name}", body, seconds=None)
            if status != http.HTTPStatus.CONFLICT or time.monotonic() > deadline:
                return answer
            time.sleep(0.02)

    def cancel(self, prediction_id: str) -> bool:
        """Cancel a prediction and return whether it is running. The call of `predict` returns when it has ended."""
        return self._request("POST", f"/predictions/{prediction_id}/cancel", {})[0] == http.HTTPStatus.OK

    def get(self, path: str) -> dict[str, Any]:
        return self._request("GET", path)[1]

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, seconds: float | None = 10.0
    ) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=seconds)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read() or b"{}"
            if answer.status == http.HTTPStatus.BAD_REQUEST and not content.startswith(b"{"):
                return answer.status, {"detail": content.decode("utf-8", "replace")}  # the reason as plain text
            return answer.status, json.loads(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServerError(f"{self.model_dir.name}: the server does not answer: {error!r}") from error
        finally:
            connection.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            self.check()
            if self._worker_failed.wait(0.05):
                self._fail("the server's worker did not start")
            try:
                health = self.get("/health-check")
            except ServerError:
                health = {"status": "STARTING"}  # its port is not open yet
            if health["status"] in ("READY", "BUSY"):  # another client may already use it
                return
            if health["status"] not in ("STARTING", "UNKNOWN"):
                self._fail(f"set-up failed: {health['setup']['logs'].rpartition('etup failed: ')[2]}")
            if time.monotonic() > deadline:
                self._fail(f"not ready after {_READY_SECONDS:.0f} s")

    def _fail(self, text: str) -> NoReturn:
        """End the server, so that all of its lines have been read, and raise ServerError with the last ones."""
        self._cleanup.close()
        raise ServerError("\n  ".join([f"{self.model_dir.name}: {text}", *self._last_lines]))

    def _read(self, lines: IO[str]) -> None:
        """Pass what the model prints to `on_log`, and keep the last other lines for messages."""
        leave_signals_to_the_main_thread()
        in_traceback = False
        with lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                    fields, target = entry["fields"], entry["target"]
                except (ValueError, TypeError, KeyError):
                    self._last_lines.append(line.rstrip())
                    # The server wraps the output of a running worker in JSON. A bare traceback is a failed start.
                    if in_traceback and not line.startswith(" "):
                        self._worker_failed.set()
                    in_traceback = in_traceback or line.startswith("Traceback ")
                    continue
                if "source" not in fields and target != "coglet::user":
                    continue  # the server's own line; late lines of a set-up have the target `coglet::user`
                self._on_log(fields["message"])


def _copy_schema(model_dir: Path) -> None:
    """Write `.cog/openapi_schema.json`, where the server looks for the schema, as `cog build` does."""
    schema = read_schema(model_dir)
    target = model_dir / ".cog" / "openapi_schema.json"
    target.parent.mkdir(exist_ok=True)
    with atomic_write(target) as part:
        part.write_text(json.dumps(schema), "utf-8")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended (PermissionError: macOS)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
