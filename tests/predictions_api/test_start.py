"""The start of a server: unusual paths, closed streams, few descriptors, and faults in one line."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import API, VERSIONS, ApiServer, failed_start, wait_until
from ports import free_port

# Paths


def test_a_data_directory_may_have_any_name(tmp_path: Path) -> None:
    name = "50% of a?b#c, %41 ü, a&b=c"
    with ApiServer(tmp_path, models=["text"], data=name) as server:
        body = server.create("text", wait=True, text="before")
        server.stop()
        server.start()
        assert server.get(body["id"])["output"] == "before"
    files = {path.name for path in (tmp_path / name).iterdir()}
    assert {"predictions.sqlite", "queue.sqlite", "server.lock"} <= files


# Faults


def test_a_second_server_of_a_data_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=[]):
        status, fault = failed_start(tmp_path)
    assert status == 1
    assert fault == (
        f"another server uses {tmp_path / 'data'}; stop it, or choose another --data, or share PostgreSQL (--database)"
    )


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ('database = "postgresql+psycopg://user:secret@127.0.0.1:9/name"', "the database cannot be used: "),
        ('database = "sqlite:////nowhere/at/all.sqlite"', "the database cannot be used: "),
    ],
)
def test_a_fault_at_the_start_is_one_line_with_the_reason(tmp_path: Path, config: str, fault: str) -> None:
    status, line = failed_start(tmp_path, config)
    assert status == 1
    assert fault in line
    assert "secret@" not in line


MODEL = f'[[models]]\nname = "a/b"\nversions = ["{VERSIONS["text"]}"]\nurls = ["http://127.0.0.1:1"]\n'
FAULTS = {  # configuration -> what its fault says
    'database = "nonsense"': "database: ",
    'database = "nonsense://host/name"': "database: ",
    'host = "nowhere.invalid"\ntokens = ["a"]': "cannot listen at nowhere.invalid",
    'certfile = "no.pem"\nkeyfile = "no.pem"': "certfile",
    'certfile = "config.toml"\nkeyfile = "config.toml"': "certfile",
    'tokens_file = "none"': "tokens_file: [Errno 2] No such file or directory: ",
    'keep = "60"': "keep is '60'; give a number",
    MODEL + 'schema = "none.json"': "schema is 'none.json', which is not a file; copy a/b's openapi.json",
}
# The imports take most of the time of a start, so one process starts a server with each configuration.
STARTS = """
import contextlib, io, json, pathlib, sys
from predictions_api.__main__ import main
results = []
for config in json.loads(sys.argv[1]):
    pathlib.Path("config.toml").write_text(config)
    sys.argv = ["predictions_api", "--config", "config.toml", "--port", "0"]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as fault:
        results.append([main(), output.getvalue(), fault.getvalue()])
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Return the exit status, stdout and stderr of a server with each configuration of FAULTS."""
    command = [sys.executable, "-c", STARTS, json.dumps([*FAULTS])]
    done = subprocess.run(command, cwd=tmp_path_factory.mktemp("starts"), stdout=subprocess.PIPE, check=True)
    return dict(zip(FAULTS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("config", FAULTS)
def test_a_fault_of_the_configuration_is_one_line_with_the_reason(starts: dict[str, list[Any]], config: str) -> None:
    status, output, fault = starts[config]
    assert (status, output) == (2, "")
    assert fault.count("\n") == 1
    assert fault.startswith("predictions_api: ")
    assert FAULTS[config] in fault


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    status, fault = failed_start(tmp_path)
    assert status == 1
    assert str(tmp_path / "data") in fault


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "predictions.sqlite").write_text("not a database " * 1000)
    assert failed_start(tmp_path) == (1, "the database cannot be used: file is not a database")


# Streams and descriptors


@contextlib.contextmanager
def shell(directory: Path, command: str, port: int):  # type: ignore[no-untyped-def]
    """Run the server by a line of sh, where "$@" is its command, until it answers."""
    data = ["--data", str(directory / "data"), "--port", str(port)]
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen(["sh", "-c", command, "sh", *API, *data], stderr=log) as process,
    ):
        try:
            wait_until(lambda: process.poll() is not None or answers(port))
            yield process
        finally:
            process.terminate()


def answers(port: int) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/models", timeout=10).status_code == 200
    return False


@pytest.mark.parametrize("streams", [">&-", "<&- >&-", ">/dev/full", "<&- >&- 2>&-"])
def test_a_server_without_a_stdout_serves(tmp_path: Path, streams: str) -> None:
    with shell(tmp_path, f'exec "$@" {streams}', free_port()) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_server_without_free_descriptors_logs_little_and_recovers(tmp_path: Path) -> None:
    port = free_port()
    with shell(tmp_path, 'ulimit -n 256; exec "$@"', port), contextlib.ExitStack() as idle:
        for _ in range(300):
            idle.enter_context(socket.create_connection(("127.0.0.1", port)))
        time.sleep(4)  # 28 s wrote 53 MB
        size = (tmp_path / "log").stat().st_size
        idle.close()
        wait_until(lambda: answers(port))
    assert size < 100_000
