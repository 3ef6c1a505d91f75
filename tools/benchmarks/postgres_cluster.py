"""A PostgreSQL server with a temporary directory and a free port, for benchmarks and tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from cog_local.ports import reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator


def program(name: str) -> str:
    """Return the path of a program of PostgreSQL. Debian does not put them on PATH. Raises FileNotFoundError."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    path = str(debian[-1]) if debian else shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"PostgreSQL is not installed: it has the program {name}")
    return path


def _user_prefix() -> list[str]:
    """Return the start of a command that does not run as root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


@contextmanager
def cluster(*, fsync: bool = True) -> Iterator[str]:
    """Run a PostgreSQL server; yield the SQLAlchemy URL of its database. Without `fsync`, it is faster and unsafe."""
    initdb, postgres, prefix = program("initdb"), program("postgres"), _user_prefix()
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        if prefix:
            user = pwd.getpwnam("nobody")
            os.chown(directory, user.pw_uid, user.pw_gid)
        data = f"{directory}/data"
        options = ["--no-sync", "--auth=trust", "--username=test", "--encoding=UTF8", "--no-locale"]
        subprocess.run([*prefix, initdb, *options, data], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={directory}"]
        options += ["-c", f"fsync={'on' if fsync else 'off'}"]
        with (Path(directory) / "log").open("w+") as log, reserved_port() as port:
            process = subprocess.Popen(
                [*prefix, postgres, "-D", data, "-p", str(port), *options], cwd=directory, stdout=log, stderr=log
            )
            try:
                _wait_for(process, port, Path(log.name))
                yield f"postgresql+psycopg://test@127.0.0.1:{port}/postgres"
            finally:
                process.terminate()  # a smart shutdown, which waits for clients
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGINT)  # a fast shutdown, which disconnects them
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
