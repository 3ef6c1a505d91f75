"""Durable queues and workflows, based on DBOS Transact.

A workflow is a registered function whose argument is the id of a row with all of its state. After a crash it is called
again. With SQLite a single process recovers its own workflows when it starts. With PostgreSQL each server writes a
heartbeat, and any server takes over the workflows of a crashed one.

DBOS looks for queued workflows at intervals. Here it also looks when a workflow was queued or has ended in this
process, so the intervals are long.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import secrets
import socket
import sqlite3
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, SetWorkflowID
from dbos._context import current_owner_xid  # private: a workflow that is taken over gets another owner
from dbos._queue import queue_worker_thread  # private: the public queue thread cannot be woken

from predictions_api.errors import Problem, StartFault
from predictions_api.run.heartbeat import Heartbeat
from predictions_api.store.database import LOCK_TIMEOUT, sqlite_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    from dbos import Queue

    from predictions_api.store.database import Database

LOG = logging.getLogger("predictions_api.engine")
POLL_INTERVAL = 5.0  # seconds between two polls of a queue that nothing woke; a poll costs 2 ms of CPU time
SHARED_POLL_INTERVAL = 0.25  # if other servers also queue and run predictions
STOP_TIMEOUT = 4.0  # seconds for running workflows to stop
APPLICATION_VERSION = "1"  # constant, as DBOS runs a workflow only in processes of the same version
_OWNER = sa.text("SELECT owner_xid FROM dbos.workflow_status WHERE workflow_uuid = :id")


class Waker(threading.Event):
    """The event that a thread of DBOS waits for between two polls. Its wait also ends when the thread is woken.

    It waits for `interval` seconds at most. DBOS doubles its time, up to two minutes, when two servers poll at once.
    """

    def __init__(self, interval: float) -> None:
        super().__init__()
        self._interval = interval
        self._stops = False

    def wake(self) -> None:
        self.set()

    def stop(self) -> None:
        self._stops = True
        self.set()

    def is_set(self) -> bool:
        """Return whether the thread is to end."""
        return self._stops

    def wait(self, timeout: float | None = None) -> bool:
        super().wait(self._interval if timeout is None else min(timeout, self._interval))
        self.clear()  # before the poll, so that what is queued during the poll wakes the thread again
        return self._stops


class Engine:
    """The queues of one process. Call `register` for all functions before `open`."""

    def __init__(self, database: Database, data: Path) -> None:
        self.database = database
        self.data = data
        self.executor = "local" if database.is_sqlite else f"{socket.gethostname()}-{secrets.token_hex(8)}"
        self._workflows: dict[str, Callable[[str, str], Coroutine[Any, Any, None]]] = {}
        self._enqueue_locks: dict[str, asyncio.Lock] = {}
        self._queues: dict[str, Queue] = {}
        self._wakers: dict[str, Waker] = {}
        self._queue_threads: list[threading.Thread] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._heartbeat: Heartbeat | None = None
        self._lock: Any = None

    def register(self, name: str, function: Callable[[str], Awaitable[None]]) -> None:
        """Register `function` as a workflow. After a crash it is called again from its start."""

        async def run(argument: str, queue: str = "") -> None:
            if self._closing:  # DBOS dequeues until it is destroyed
                raise asyncio.CancelledError
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(lambda _: self.wake(queue))  # DBOS has then recorded the end
            try:
                await self._run_until_done(name, function, argument)
            finally:
                self._tasks.discard(task)

        run.__qualname__ = name
        self._workflows[name] = DBOS.workflow(name=name)(run)

    async def _run_until_done(self, name: str, function: Callable[[str], Awaitable[None]], argument: str) -> None:
        workflow_id = DBOS.workflow_id
        assert workflow_id is not None
        owner = current_owner_xid(workflow_id)
        fault = ""
        while True:
            try:
                if not (fault and await self._has_other_owner(workflow_id, owner)):
                    await function(argument)
                return
            except Problem as problem:  # the database or the disk is unavailable now, or another server took over
                fault = problem.detail
                LOG.warning("%s waits: %s", name, fault, extra={"prediction": argument})
                await asyncio.sleep(1.0)

    async def _has_other_owner(self, workflow_id: str, owner: str | None) -> bool:
        """Return whether another server has taken over this run of a workflow."""
        if self.database.is_sqlite:
            return False
        query = _OWNER.bindparams(id=workflow_id)
        return bool(await self.database.read(lambda connection: connection.scalar(query)) != owner)

    async def open(self, queues: dict[str, int], shared: set[str], repair: Callable[[], None]) -> None:
        """Start the queues, given as name -> number of workflows at the same time.

        The number is a limit per process, and for queues in `shared` also for all servers together. `repair` is called
        on this loop after another server crashed, as it may have written a row but not queued it.
        """
        config: DBOSConfig = {
            "name": "predictions-api",
            "executor_id": self.executor,
            "application_version": APPLICATION_VERSION,
            "log_level": "WARNING",
            "enable_otlp": False,
        }
        if self.database.is_sqlite:
            config["system_database_engine"] = _sqlite_engine(self.data / "queue.sqlite")
        else:
            config["system_database_url"] = self.database.url.render_as_string(hide_password=False)
            config["sys_db_idle_transaction_timeout_sec"] = LOCK_TIMEOUT
            loop = asyncio.get_running_loop()
            repair_later = partial(loop.call_soon_threadsafe, repair)
            self._heartbeat = Heartbeat(self.database.url, self.executor, repair_later)
            await asyncio.to_thread(self._heartbeat.start)
        dbos = DBOS(config=config)
        DBOS.listen_queues([])  # the threads for the queues are started here
        self._enqueue_locks = {name: asyncio.Lock() for name in queues}
        dbos._registry.get_internal_queue()._polling_interval_sec = 60.0  # every workflow here has its own queue
        DBOS.launch()  # not in a thread, so that workflows run on this loop
        dbos._background_jobs_stop_event.set()  # no workflow here is delayed or has a timeout
        interval = POLL_INTERVAL if self.database.is_sqlite else SHARED_POLL_INTERVAL
        for name, count in queues.items():
            await DBOS.register_queue_async(
                name,
                worker_concurrency=count,
                global_concurrency=count if name in shared and not self.database.is_sqlite else None,
                polling_interval_sec=interval,
                on_conflict="always_update",
            )
        for queue in await DBOS.list_queues_async():
            # Other servers may have other models. A single server also runs those of removed models, which then fail.
            if queue.name in queues or self.database.is_sqlite:
                queue.database_backed_queue = False  # its limits are set here, not read from the database at each poll
                self._queues[queue.name] = queue
                waker = self._wakers[queue.name] = Waker(interval)
                thread = threading.Thread(
                    target=queue_worker_thread, args=(waker, dbos, queue), name=f"queue {queue.name}", daemon=True
                )
                thread.start()
                self._queue_threads.append(thread)

    def set_concurrency(self, queue: str, count: int) -> None:
        """Change the limit of a queue, as `open` describes it."""
        limits = self._queues[queue]
        if limits._worker_concurrency != count:
            limits._worker_concurrency = count  # private: DBOS's setters write to the database, for all servers
            if limits._concurrency is not None:
                limits._concurrency = count
            self.wake(queue)

    async def hand_over(self) -> None:
        """Stop running workflows, which then continue at the next start or in another server. Start no others."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT)

    async def close(self) -> None:
        """Stop. Call `hand_over` first."""
        for waker in self._wakers.values():
            waker.stop()
        for thread in self._queue_threads:
            await asyncio.to_thread(thread.join)
        if self._heartbeat is not None:
            await asyncio.to_thread(self._heartbeat.stop)
        await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=0)  # also shuts down the loop's executor
        if self._heartbeat is not None:
            self._heartbeat.sign_off()
        if self._lock is not None:
            self._lock.close()

    async def enqueue(self, queue: str, workflow: str, workflow_id: str, argument: str) -> None:
        """Append a workflow to a queue, unless one with this id is waiting, running or has ended."""
        if queue not in self._enqueue_locks:
            return  # the queue of a model that only another server may have
        async with self._enqueue_locks[queue]:  # DBOS orders by the millisecond of the call
            with SetWorkflowID(workflow_id):
                await DBOS.enqueue_workflow_async(queue, self._workflows[workflow], argument, queue)
        self.wake(queue)

    def wake(self, queue: str) -> None:
        """Look for workflows that wait in this queue, now."""
        if queue in self._wakers:
            self._wakers[queue].wake()

    async def remove_from_queue(self, workflow_id: str) -> None:
        await DBOS.cancel_workflow_async(workflow_id)

    async def delete_workflows(self, workflow_ids: list[str]) -> None:
        """Delete the records of workflows that have ended."""
        await DBOS.delete_workflows_async(workflow_ids)

    def take_lock(self) -> None:
        """Reserve the data directory, if the database is SQLite. Raises StartFault if another server has it."""
        if not self.database.is_sqlite:
            return
        self._lock = (self.data / "server.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartFault(
                f"another server uses {self.data}; stop it, or choose another --data, or share PostgreSQL (--database)"
            ) from error


def _sqlite_engine(path: Path) -> sa.Engine:
    """Return an engine like DBOS's own, but with a write-ahead log: enqueuing takes 1 ms instead of 17 ms."""
    engine = sa.create_engine(sqlite_url(path), connect_args={"timeout": 5.0})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        for pragma in ("busy_timeout=5000", "foreign_keys=ON", "journal_mode=WAL", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")
        if sqlite3.sqlite_version_info < (3, 42):  # Debian 12's. With Python 3.12+, DBOS calls unixepoch('subsec').
            connection.create_function("unixepoch", 1, lambda _: round(time.time(), 3))

    return engine
