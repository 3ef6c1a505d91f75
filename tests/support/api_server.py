"""The predictions API as its users start it: a process in front of Cog servers with test models."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from cog_local.server import CogServer
from replicate_contract import check_response
from tree import ROOT

COG_MODEL = ROOT / "tests" / "predictions_api" / "cog_model.py"
MODELS = ROOT / "tests" / "predictions_api" / "models"
MODEL_FILES = MODELS / "file"  # a model that has a README and examples
TOKEN = "test-token"
API = [sys.executable, "-m", "predictions_api"]
VERSIONS = {
    name: digit * 64 for name, digit in {"text": "1", "words": "2", "file": "3", "files": "4", "pictures": "5"}.items()
}


def cog_command(name: str) -> list[str]:
    """Return the command of a test model's Cog server, which ends when its stdin closes."""
    return [sys.executable, str(COG_MODEL), str(MODELS / name)]


def cog_server(name: str) -> CogServer:
    """Return the Cog server of a test model, a context manager, whose `url` is for the `urls` of an ApiServer."""
    return CogServer(MODELS / name)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true, for two minutes at most."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_runs(mark: Path, count: int = 1) -> None:
    """Wait until a test model has begun this many runs, which it records in the file `mark`."""
    wait_until(lambda: mark.exists() and len(mark.read_text().split()) >= count)


class ApiServer:
    """A running server; a context manager that leaves no process behind.

    `settings` are members of the configuration file. `urls` has the running Cog servers of a model. A server with a
    `public_url` needs a `port`, to which `http` then connects. `run_with` changes the command that starts it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        models: Sequence[str] = tuple(VERSIONS),
        urls: Mapping[str, Sequence[str]] | None = None,
        token: str | None = TOKEN,
        port: int = 0,
        run_with: Callable[[list[str], Path], list[str]] = lambda command, _: command,
        **settings: Any,
    ) -> None:
        self.directory = directory
        self.run_with = run_with
        self.log = directory / "log"
        self.token = token
        self.port = port
        directory.mkdir(parents=True, exist_ok=True)
        values = {"data": "data", "allow_private_webhooks": True, **settings}  # tests receive webhooks on loopback
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        for name in models:
            schema = str(MODELS / name / "openapi.json")
            model_urls = (urls or {}).get(name)
            lines += ["[[models]]", f'name = "test/{name}"', f'versions = ["{VERSIONS[name]}"]']
            lines += [f'description = "for tests: {name}"', f"schema = {json.dumps(schema)}"]
            if (MODELS / name / "examples").exists():
                readme, examples = (json.dumps(str(MODELS / name / path)) for path in ("README.md", "examples"))
                lines += [f"readme = {readme}", f"examples = {examples}"]
            command = f"command = {json.dumps(cog_command(name))}"
            lines.append(f"urls = {json.dumps(list(model_urls))}" if model_urls else command)
        self.config = directory / "config.toml"
        self.config.write_text("\n".join(lines))
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("REPLICATE", "DBOS"))}
        if self.token:
            environ["REPLICATE_API_TOKEN"] = self.token
        # Warnings are errors. -X dev would slow the queue down.
        command = [sys.executable, "-W", "error", "-m", "predictions_api", "--config", str(self.config)]
        command += ["--port", str(self.port)]
        with self.log.open("a") as log:
            command = self.run_with(command, self.directory)
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environ, encoding="utf-8")
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if " is ready at " not in line:
            self.process.wait()
            self.process.stdout.close()
            raise RuntimeError(f"the server did not start: {self.log.read_text()[-3000:]}")
        self.url = line.split(" is ready at ")[1].split()[0]
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        address = f"http://127.0.0.1:{self.port}" if self.port else self.url
        self.http = httpx.Client(base_url=f"{address}/v1", headers=headers, timeout=90)
        self.http.event_hooks = {"response": [check_response]}

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to the process and wait until it has ended."""
        if self.process is None:
            return
        self.process.send_signal(sign)
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.http.close()
        self.process = None

    def kill(self) -> None:
        """End the process as a power cut would."""
        self.stop(signal.SIGKILL)

    def create(self, name: str, wait: bool = False, headers: Mapping[str, str] | None = None, **inputs: Any) -> Any:
        """Create a prediction of a test model and return the JSON of the answer."""
        body = {"version": VERSIONS[name], "input": inputs}
        all_headers = {**({"Prefer": "wait"} if wait else {}), **(headers or {})}
        answer = self.http.post("/predictions", json=body, headers=all_headers)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def get(self, prediction_id: str) -> Any:
        """Return the current JSON of a prediction."""
        answer = self.http.get(f"/predictions/{prediction_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait_for(self, prediction_id: str, *statuses: str) -> Any:
        """Return a prediction once it has one of the statuses, by default one of those that end it."""
        wanted = statuses or ("succeeded", "failed", "canceled", "aborted")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            prediction = self.get(prediction_id)
            if prediction["status"] in wanted:
                return prediction
            time.sleep(0.02)
        raise AssertionError(f"not {wanted} within 60 s: {prediction}\n{self.log.read_text()[-3000:]}")

    def execute(self, statement: str, *values: Any) -> list[Any]:
        """Execute a statement in the SQLite database of the server, running or not. Return its rows."""
        with closing(sqlite3.connect(self.directory / "data" / "predictions.sqlite")) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def metric(self, name: str, model: str) -> float:
        """Return the value of a metric of a test model."""
        line = f'{name}{{model="test/{model}"}} '
        (value,) = [rest for rest in self.http.get("/metrics").text.splitlines() if rest.startswith(line)]
        return float(value.removeprefix(line))

    def report_of_client(self, command: Sequence[str], directory: Path, **environ: str) -> Any:
        """Run a program with another client of this server. Return the JSON that it prints."""
        values = {"BASE_URL": self.url, "TOKEN": TOKEN, "VERSIONS": json.dumps(VERSIONS)}
        done = subprocess.run(
            command, cwd=directory, env=os.environ | values | environ, stdout=subprocess.PIPE, timeout=180, check=True
        )
        return json.loads(done.stdout)

    def logged_errors(self) -> list[dict[str, Any]]:
        """Return the lines of the log that are errors."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["level"] == "error"]


def failed_start(directory: Path, config: str = "") -> tuple[int, str]:
    """Start a server that cannot start. Return its exit status and the text of its fault."""
    path = directory / "config.toml"
    path.write_text(config)
    port = [] if "port = " in config else ["--port", "0"]
    command = [*API, "--config", str(path), "--data", str(directory / "data"), *port]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]  # besides the log
    assert len(lines) == 1, done.stderr
    assert '"level": "error"' not in done.stderr
    return done.returncode, lines[0].removeprefix("predictions_api: ")


def post_raw(url: str, token: str, *parts: bytes, **headers: str) -> socket.socket:
    """Send the head of a POST and parts of its body. Return the connection. content_length: the header Content-Length.

    The content type is JSON by default.
    """
    address = urlsplit(url)
    members = {"host": address.netloc, "authorization": f"Bearer {token}", "content-type": "application/json"}
    members |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in members.items())
    connection = socket.create_connection((address.hostname or "", address.port or 80), timeout=60)
    for part in (f"POST {address.path} HTTP/1.1\r\n{head}\r\n".encode(), *parts):
        connection.sendall(part)
    return connection


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def cog_at(host: str, port: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Cog server of the test model `text`, as an image runs it, at an address of this machine."""
    (directory / ".cog").mkdir(parents=True, exist_ok=True)
    shutil.copy(MODELS / "text" / "predict.py", directory)
    shutil.copy(MODELS / "text" / "openapi.json", directory / ".cog" / "openapi_schema.json")
    environ = {**os.environ, "PORT": str(port), "COG_PREDICT_TYPE_STUB": "predict.py:Predictor"}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "cog.server.http", "--host", host]
    with subprocess.Popen(
        command, cwd=directory, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
