"""A PostgreSQL of our own for tests: a cluster in a directory, on a free port, ended and removed with the test run."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest


def _program(name: str) -> str:
    """Return a server program's path. Debian keeps them off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    found = str(debian[-1]) if debian else shutil.which(name)
    if found is None:
        reason = "PostgreSQL is not on this machine; .ci/run installs it with apt"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def _as_ordinary_user() -> list[str]:
    """Return what goes before a command so that it does not run as root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


@contextmanager
def cluster() -> Iterator[str]:
    """Run a PostgreSQL server; yield the SQLAlchemy URL of its database."""
    initdb, postgres, before = _program("initdb"), _program("postgres"), _as_ordinary_user()
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        if before:
            user = pwd.getpwnam("nobody")
            os.chown(directory, user.pw_uid, user.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = f"{directory}/data"
        quick = ["--no-sync", "--auth=trust", "--username=test", "--encoding=UTF8", "--no-locale"]
        subprocess.run([*before, initdb, *quick, data], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={directory}", "-c", "fsync=off"]
        with (Path(directory) / "log").open("w+") as log:
            process = subprocess.Popen(
                [*before, postgres, "-D", data, "-p", str(port), *options], cwd=directory, stdout=log, stderr=log
            )
            try:
                _wait_for(process, port, Path(log.name))
                yield f"postgresql+psycopg://test@127.0.0.1:{port}/postgres"
            finally:
                process.terminate()  # smart shutdown would wait for clients, so:
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.send_signal(2)  # fast: ends them
                    process.wait(30)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:

    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="test", dbname="postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")
