"""Heartbeats of servers that share a PostgreSQL database, and the takeover of workflows from a server without one.

A server may only have paused. Takeover changes the keys of the predictions that it runs, and DBOS the owners of its
workflows, so when it continues it can write neither.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from dbos import DBOS
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError

from predictions_api.store.database import predictions, random_key, servers

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger("predictions_api.heartbeat")
INTERVAL: Final = 2.0  # seconds
TIMEOUT: Final = 6.0  # seconds; then another server takes over
_IS_LATE = servers.c.seen_at < sa.func.now() - timedelta(seconds=TIMEOUT)
_HELD = sa.text("SELECT workflow_uuid FROM dbos.workflow_status WHERE executor_id = :executor AND status = 'PENDING'")


class Heartbeat:
    """A thread, which a busy event loop does not delay. `repair` is called after each takeover."""

    def __init__(self, url: sa.URL, executor: str, repair: Callable[[], Any]) -> None:
        self._executor = executor
        self._repair = repair
        # Its own connections, as requests may use all others.
        self._engine = sa.create_engine(
            url, pool_size=2, max_overflow=0, pool_pre_ping=True, connect_args={"connect_timeout": 5}
        )
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write the first heartbeat and start the thread."""
        self._send()
        self._thread.start()

    def stop(self) -> None:
        self._stop_event.set()
        self._thread.join()

    def sign_off(self) -> None:
        """Let others take over at their next heartbeat. Call `stop` first."""
        expired = {"seen_at": sa.func.now() - timedelta(seconds=TIMEOUT * 2)}
        with contextlib.suppress(SQLAlchemyError), self._engine.begin() as connection:  # others see it later
            connection.execute(sa.update(servers).where(servers.c.id == self._executor).values(expired))
        self._engine.dispose()

    def _run(self) -> None:
        sent_at, late_at = time.monotonic(), -math.inf
        while not self._stop_event.wait(INTERVAL):
            try:
                missing = self._send()
                now = time.monotonic()
                if now > sent_at + TIMEOUT:  # the database or this machine had stopped, so others may be late, too
                    late_at = now
                sent_at = now
                for executor in missing if now > late_at + TIMEOUT else []:
                    if self._take_over(executor):
                        LOG.warning("no heartbeat from %s; its predictions are queued again", executor)
                        self._repair()
            except Exception as error:
                LOG.warning("the heartbeat failed: %s", error)

    def _send(self) -> list[str]:
        """Write this server's heartbeat. Return the ids of servers whose last one is too old."""
        with self._engine.begin() as connection:
            heartbeat = postgresql.insert(servers).values(id=self._executor, seen_at=sa.func.now())
            connection.execute(heartbeat.on_conflict_do_update(index_elements=["id"], set_={"seen_at": sa.func.now()}))
            return list(connection.scalars(sa.select(servers.c.id).where(_IS_LATE)))

    def _take_over(self, executor: str) -> bool:
        """Queue the workflows of another server again. Return False if a third one does, or if it is late no more."""
        with self._engine.begin() as connection:
            row = sa.select(servers.c.id).where(servers.c.id == executor, _IS_LATE)
            if connection.scalar(row.with_for_update(skip_locked=True)) is None:
                return False
            with self._engine.begin() as other:  # committed before the workflows are queued
                held = other.scalars(_HELD, {"executor": executor}).all()
                changes = {"callback_key": random_key(), "revision": predictions.c.revision + 1}
                other.execute(sa.update(predictions).where(predictions.c.id.in_(held)).values(changes))
            DBOS._recover_pending_workflows([executor])  # private: DBOS offers this as a paid service
            connection.execute(sa.delete(servers).where(servers.c.id == executor))
        return True
