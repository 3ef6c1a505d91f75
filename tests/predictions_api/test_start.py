"""The start of a server: unusual paths, closed streams, few descriptors, and faults in one line."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from api_server import API, ApiServer, failed_start, free_port, wait_until

# Paths


@pytest.mark.parametrize("name", ["50%", "a?b", "a#b", "%41 ü", "a&b=c"])
def test_a_data_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
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
    ("config", "status", "fault"),
    [
        ('database = "nonsense"', 2, "database: "),
        ('database = "nonsense://host/name"', 2, "database: "),
        ('database = "postgresql+psycopg://user:secret@127.0.0.1:9/name"', 1, "the database cannot be used: "),
        ('database = "sqlite:////nowhere/at/all.sqlite"', 1, "the database cannot be used: "),
        ('host = "nowhere.invalid"\ntokens = ["a"]', 2, "cannot listen at nowhere.invalid"),
        ('certfile = "no.pem"\nkeyfile = "no.pem"', 2, "certfile"),
        ('certfile = "config.toml"\nkeyfile = "config.toml"', 2, "certfile"),
        ('tokens_file = "none"', 2, "tokens_file: [Errno 2] No such file or directory: "),
        ('keep = "60"', 2, "keep is '60'; give a number"),
    ],
)
def test_a_fault_is_one_line_with_the_reason(tmp_path: Path, config: str, status: int, fault: str) -> None:
    done = failed_start(tmp_path, config)
    assert done[0] == status
    assert fault in done[1]
    assert "secret@" not in done[1]


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
