"""Queues and workflows that outlive this process: DBOS Transact, told only what it has to know.

A workflow is a registered function with one argument, the id of a row; its state is that row. DBOS keeps which
workflows wait and which run, runs them in the order of their enqueuing, so many of a queue at a time, and runs again
those whose process has died. On SQLite there is one process, which finds its own again when it starts. On PostgreSQL
each server tells every 2 s that it lives, and any server takes over what a dead one has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import secrets
import socket
import threading
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, Queue, SetWorkflowID
from sqlalchemy.dialects import postgresql

from predictions_api.errors import Problem
from predictions_api.store.database import servers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from predictions_api.store.database import Database

LOG = logging.getLogger("predictions_api.engine")
IDLE_POLL_INTERVAL = 0.25  # seconds between two looks at a queue; each costs 2 ms of a processor
BUSY_POLL_INTERVAL = 0.02  # the same while predictions wait, so that short ones do not wait for a look
HEARTBEAT_INTERVAL = 2.0
HEARTBEAT_TIMEOUT = 10.0  # seconds without a beat
APPLICATION_VERSION = "1"  # DBOS gives a workflow only to processes of its own version; rows keep their meaning here


class Engine:
    """The queues of one process. Register the functions, then `open`."""

    def __init__(self, database: Database, data: Path) -> None:
        self.database = database
        self.data = data
        self.executor = "local" if database.is_sqlite else f"{socket.gethostname()}-{secrets.token_hex(8)}"
        self._workflows: dict[str, Callable[[str], Awaitable[None]]] = {}
        self._enqueue_locks: dict[str, asyncio.Lock] = {}
        self._queues: dict[str, Queue] = {}
        self._busy_queues: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._stop_event = threading.Event()
        self._heartbeat_engine: sa.Engine | None = None
        self._heartbeat_thread: threading.Thread | None = None
        self._lock: Any = None

    def register(self, name: str, function: Callable[[str], Awaitable[None]]) -> None:
        """Make `function` a workflow. It is called again from its start when its process died within it."""

        async def run(argument: str) -> None:
            if self._closing:  # DBOS takes from its queues until it is destroyed
                raise asyncio.CancelledError
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._run_until_done(name, function, argument)
            finally:
                self._tasks.discard(task)

        run.__qualname__ = name
        self._workflows[name] = DBOS.workflow(name=name)(run)

    async def _run_until_done(self, name: str, function: Callable[[str], Awaitable[None]], argument: str) -> None:
        while True:
            try:
                return await function(argument)
            except Problem as problem:  # the database or the disk refuses, and will not for ever
                LOG.warning("%s waits: %s", name, problem.detail, extra={"prediction": argument})
                await asyncio.sleep(1.0)

    async def open(self, queues: dict[str, int], shared: set[str], repair: Callable[[], None]) -> None:
        """Start, with queues (name -> how many at a time in this process, for `shared` ones in all together).

        `repair` is called on this loop when another server has died, maybe between a row and its place in a queue.
        """
        config: DBOSConfig = {
            "name": "predictions-api",
            "executor_id": self.executor,
            "application_version": APPLICATION_VERSION,
            "log_level": "WARNING",
            "enable_otlp": False,
        }
        if self.database.is_sqlite:
            self._take_lock()
            config["system_database_engine"] = _sqlite_engine(self.data / "queue.sqlite")
        else:
            config["system_database_url"] = self.database.url
            # Its own connection: requests may have all the others.
            self._heartbeat_engine = sa.create_engine(
                self.database.url, pool_size=1, max_overflow=0, pool_pre_ping=True, connect_args={"connect_timeout": 5}
            )
            await asyncio.to_thread(self._send_heartbeat)
            loop = asyncio.get_running_loop()
            self._heartbeat_thread = threading.Thread(
                target=self._run_heartbeat,
                args=(partial(loop.call_soon_threadsafe, repair),),
                name="heartbeat",
                daemon=True,
            )
            self._heartbeat_thread.start()
        DBOS(config=config)
        if not self.database.is_sqlite:  # other servers have other models; alone, what is served no more has to fail
            DBOS.listen_queues(list(queues))
        self._enqueue_locks = {name: asyncio.Lock() for name in queues}
        DBOS.launch()  # here, not in a thread: workflows then run on this loop
        for name, count in queues.items():
            self._queues[name] = await DBOS.register_queue_async(
                name,
                worker_concurrency=count,
                global_concurrency=count if name in shared and not self.database.is_sqlite else None,
                polling_interval_sec=IDLE_POLL_INTERVAL,
                on_conflict="always_update",
            )

    async def close(self) -> None:
        """Stop. What runs is left to the next start, or to another server."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)
        self._stop_event.set()
        if self._heartbeat_thread is not None:
            await asyncio.to_thread(self._heartbeat_thread.join)
        await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=0)  # shuts the loop's own threads down
        if self._heartbeat_engine is not None:
            with contextlib.suppress(Problem):  # the database is away: the others will miss the beats
                await self.database.run(lambda connection: connection.execute(_expire_heartbeat(self.executor)))
            self._heartbeat_engine.dispose()
        if self._lock is not None:
            self._lock.close()

    def has_queue(self, queue: str) -> bool:
        """Tell whether this process has a queue of that name."""
        return queue in self._enqueue_locks

    async def enqueue(self, queue: str, workflow: str, workflow_id: str, argument: str) -> None:
        """Put a workflow at the end of a queue. Does nothing where one of this id waits, runs or has ended."""
        async with self._enqueue_locks[queue]:  # DBOS orders by the millisecond of enqueuing
            with SetWorkflowID(workflow_id):
                await DBOS.enqueue_workflow_async(queue, self._workflows[workflow], argument)  # type: ignore[arg-type]

    async def set_pace(self, busy: set[str]) -> None:
        """Look at these queues often, and at the others now and then."""
        for name in busy ^ self._busy_queues:
            if name in self._queues:
                await self._queues[name].set_polling_interval_sec_async(
                    BUSY_POLL_INTERVAL if name in busy else IDLE_POLL_INTERVAL
                )
        self._busy_queues = busy

    async def remove_from_queue(self, workflow_id: str) -> None:
        """Take a workflow that waits out of its queue."""
        await DBOS.cancel_workflow_async(workflow_id)

    async def delete_workflows(self, workflow_ids: list[str]) -> None:
        """Delete what is kept of workflows that have ended."""
        await DBOS.delete_workflows_async(workflow_ids)

    def _take_lock(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._lock = (self.data / "server.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(
                f"another server uses {self.data}; several servers share a PostgreSQL database (--database)"
            ) from error

    def _run_heartbeat(self, repair: Callable[[], Any]) -> None:
        """Tell that this server lives and take over from those that do not; a thread, so that no busy loop stops it."""
        assert self._heartbeat_engine is not None
        while not self._stop_event.wait(HEARTBEAT_INTERVAL):
            try:
                for dead in self._send_heartbeat():
                    LOG.warning("engine: %s has died; its predictions are taken over", dead)
                    DBOS._recover_pending_workflows([dead])  # DBOS's own service for this is a paid one
                    repair()
                    with self._heartbeat_engine.begin() as connection:
                        connection.execute(sa.delete(servers).where(servers.c.id == dead))
            except Exception as error:
                LOG.warning("engine: no heartbeat: %s", error)

    def _send_heartbeat(self) -> list[str]:
        """Renew this server's row and return the ids of those not seen for HEARTBEAT_TIMEOUT seconds."""
        assert self._heartbeat_engine is not None
        with self._heartbeat_engine.begin() as connection:
            alive = postgresql.insert(servers).values(id=self.executor, seen_at=sa.func.now())
            connection.execute(alive.on_conflict_do_update(index_elements=["id"], set_={"seen_at": sa.func.now()}))
            silent = servers.c.seen_at < sa.func.now() - timedelta(seconds=HEARTBEAT_TIMEOUT)
            return list(connection.scalars(sa.select(servers.c.id).where(silent)))


def _expire_heartbeat(executor: str) -> sa.Update:
    """Let the others take over at their next beat."""
    return (
        sa.update(servers)
        .where(servers.c.id == executor)
        .values(seen_at=sa.func.now() - timedelta(seconds=HEARTBEAT_TIMEOUT * 2))
    )


def _sqlite_engine(path: Path) -> sa.Engine:
    """Return what DBOS makes for SQLite, but with a write-ahead log: an enqueuing takes 1 ms instead of 17."""
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 5.0})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        for pragma in ("busy_timeout=5000", "foreign_keys=ON", "journal_mode=WAL", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")

    return engine
