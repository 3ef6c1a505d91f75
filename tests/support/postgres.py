"""A PostgreSQL server for tests, which are skipped without its programs."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from benchmarks import postgres_cluster


def program(name: str) -> str:
    """Return the path of a program of PostgreSQL."""
    try:
        return postgres_cluster.program(name)
    except FileNotFoundError as error:
        reason = f"{error}; .ci/run installs it with apt"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def cluster() -> Iterator[str]:
    """Run a PostgreSQL server; yield the SQLAlchemy URL of its database."""
    program("postgres")
    with postgres_cluster.cluster(fsync=False) as url:
        yield url


def connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect to a database, given by its SQLAlchemy URL. Each statement is a transaction."""
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def new_database(url: str) -> str:
    """Make an empty database in a running server, given by the URL of another one. Return its URL."""
    name = f"test_{secrets.token_hex(8)}"
    with connect(url) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{url.rpartition('/')[0]}/{name}"
