"""The tables, in SQLite or PostgreSQL, and `Database`, which runs a function in one transaction in a thread.

Times are integers: microseconds since 1970, UTC. Rows are written by records.py, files.py and run/webhooks.py.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from predictions_api.errors import StartFault, unavailable
from predictions_api.store.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

LOG = logging.getLogger("predictions_api.database")
LOCK_TIMEOUT: Final = 5  # seconds for a write to wait for SQLite's lock, or for a connection to PostgreSQL
THREADS: Final = 8
METADATA = sa.MetaData()
is_unended = sa.text("deadline IS NOT NULL AND status IN ('starting', 'processing')")

predictions = sa.Table(
    "predictions",
    METADATA,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("model", sa.String(256), nullable=False),
    sa.Column("version", sa.String(256), nullable=False),
    sa.Column("source", sa.String(8), nullable=False, default="api"),
    sa.Column("input", sa.JSON, nullable=False),
    sa.Column("output", sa.JSON),
    sa.Column("logs", sa.Text, nullable=False, default=""),
    sa.Column("error", sa.Text),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("metrics", sa.JSON),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("completed_at", sa.BigInteger),
    sa.Column("deadline", sa.BigInteger),
    sa.Column("webhook", sa.Text),
    sa.Column("webhook_events_filter", sa.JSON),
    sa.Column("revision", sa.Integer, nullable=False, default=0),
    sa.Column("data_removed", sa.Boolean, nullable=False, default=False),
    sa.Column("stream_key", sa.String(64), unique=True),  # None if the version does not stream
    sa.Column("streams_files", sa.Boolean, nullable=False, default=False),  # whether its outputs are files
    sa.Column("worker", sa.Text),  # URL of the last Cog server that received it
    sa.Column("attempts", sa.Integer, nullable=False, default=0),  # how often it was sent to a Cog server
    sa.Column("callback_key", sa.String(64), nullable=False),  # of this attempt, part of the URL that Cog calls
    sa.Index("newest", "created_at", "id"),
    sa.Index("waiting", "status", "model"),
    sa.Index("runs", "model"),
    sa.Index("due", "deadline", sqlite_where=is_unended, postgresql_where=is_unended),
    sa.Index("ended", "data_removed", "completed_at"),
)

events = sa.Table(
    "events",
    METADATA,
    sa.Column("prediction_id", sa.String(26), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),  # from 0, without gaps
    sa.Column("kind", sa.String(8), nullable=False),  # output, logs, error, done
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)

files = sa.Table(
    "files",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),  # random: anyone with the id may read the file
    sa.Column("sha256", sa.String(64), nullable=False, index=True),
    sa.Column("md5", sa.String(32), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),  # upload, output, input
    sa.Column("prediction_id", sa.String(26), index=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False, index=True),
)

deliveries = sa.Table(
    "deliveries",
    METADATA,
    sa.Column("prediction_id", sa.String(26), primary_key=True),
    sa.Column("event", sa.String(16), primary_key=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("last_status", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("delivered_at", sa.BigInteger),
)

servers = sa.Table(  # the servers that share a PostgreSQL database; times are by the database's clock
    "servers",
    METADATA,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
)

secret_values = sa.Table(
    "secrets",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


def sqlite_url(path: Path) -> sa.URL:
    """Return the URL of a database file whose path may have any characters."""
    return sa.URL.create("sqlite", database=str(path.resolve()))


def now() -> int:
    """Return the time in microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def without_nul(text: str) -> str:
    """Return `text` without NUL, which PostgreSQL's text type rejects."""
    return text.replace("\0", "")


class Database:
    """One SQLAlchemy engine and the threads that use it.

    With SQLite one thread writes, in the order of the calls. Several would wait for each other's lock with pauses, in
    which some wait for a second and more.
    """

    def __init__(self, url: str | sa.URL) -> None:
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        connect_args: dict[str, Any] = {"timeout" if self.is_sqlite else "connect_timeout": LOCK_TIMEOUT}
        self.engine = sa.create_engine(
            self.url, pool_size=THREADS + 1, max_overflow=0, pool_pre_ping=not self.is_sqlite, connect_args=connect_args
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="database")
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="writer") if self.is_sqlite else self._threads
        self._reader = self.engine.execution_options(reads=True)
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        else:
            sa.event.listen(self.engine, "connect", _prepare_postgresql)

    async def open(self) -> None:
        """Create or upgrade the tables. Raises StartFault if the database cannot be used."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._migrate)

    def _migrate(self) -> None:
        try:
            with self.engine.begin() as connection:
                migrate(connection, METADATA)
        except SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise StartFault(f"the database cannot be used: {reason}") from error

    async def close(self) -> None:
        """Wait for running transactions and close all connections."""
        self._writers.shutdown()  # not by to_thread: DBOS has shut down the loop's executor
        self._threads.shutdown()
        self.engine.dispose()

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Return the result of `work` after its transaction is committed.

        Raises Problem 503 if the database is locked, full or unavailable. The transaction is then rolled back.
        """
        engine = self.engine.execution_options(deadline=time.monotonic() + LOCK_TIMEOUT)
        return await asyncio.get_running_loop().run_in_executor(self._writers, _transaction, engine, work)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return the result of `work`, which must only read. Unlike `run`, it does not wait for writers."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _transaction, self._reader, work)

    async def rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[*tuple[Any, ...]]]:
        """Return the rows of a query that only reads."""
        return await self.read(lambda connection: connection.execute(query).all())


def _transaction(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    try:
        with engine.begin() as connection:
            return work(connection)
    except IntegrityError:
        raise
    except DBAPIError as error:
        LOG.warning("the database: %s", str(error.orig).strip())  # logged only, as it names hosts and users
        raise unavailable("The database cannot be used now") from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the module would send BEGIN only before the first write
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    """End a transaction whose server has stopped, as others wait for its locks. PgBouncer refuses this as an option."""
    connection.autocommit = True
    connection.execute(f"SET idle_in_transaction_session_timeout = '{LOCK_TIMEOUT}s'")
    connection.autocommit = False


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("reads"):
        connection.exec_driver_sql("BEGIN")
        return
    # Also after waiting for other writes, a write fails at its deadline. It may still try once if that has passed.
    deadline = options.get("deadline", time.monotonic() + LOCK_TIMEOUT)
    seconds = max(0.0, deadline - time.monotonic())
    connection.exec_driver_sql(f"PRAGMA busy_timeout={seconds * 1000:.0f}")
    # After BEGIN, a transaction that reads and then writes fails without waiting if another one wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


async def get_or_create_secret(database: Database, name: str, create: Callable[[], str]) -> str:
    """Return the secret called `name`. The first server to ask creates it with `create`."""

    def work(connection: sa.Connection) -> str:
        secret = connection.scalar(sa.select(secret_values.c.value).where(secret_values.c.name == name))
        if secret is None:
            secret = create()
            connection.execute(sa.insert(secret_values).values(name=name, value=secret))
        return str(secret)

    try:
        return await database.run(work)
    except IntegrityError:  # another server was first
        return await database.run(work)


def random_key(length: int = 52) -> str:
    """Return random lower-case letters and digits of Crockford's base32, 5 bits each."""
    return "".join(secrets.choice("0123456789abcdefghjkmnpqrstvwxyz") for _ in range(length))
