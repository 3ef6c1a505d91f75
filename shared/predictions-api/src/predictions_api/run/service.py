"""One server: its parts, its operations on predictions, and its housekeeping in the background."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx
from sqlalchemy.exc import SQLAlchemyError

from predictions_api.errors import Problem
from predictions_api.metrics import Metrics
from predictions_api.run import inputs, webhooks
from predictions_api.run.addresses import AddressRules, Resolver
from predictions_api.run.catalogue import Catalogue
from predictions_api.run.driver import Driver
from predictions_api.run.engine import Engine
from predictions_api.run.external import create_workers
from predictions_api.run.fetch import Fetcher
from predictions_api.run.inputs import FETCH, Inputs, may_need_fetch
from predictions_api.run.tasks import first_result
from predictions_api.run.upkeep import (
    count_unended,
    list_expired,
    list_overdue,
    list_unended,
    list_unserved,
    remove_data,
)
from predictions_api.run.webhooks import Webhooks
from predictions_api.store.changes import Changes
from predictions_api.store.database import Database, now, sqlite_url
from predictions_api.store.files import Files, create_content
from predictions_api.store.input_files import InputFiles
from predictions_api.store.records import WAITING_NOTICE, Records

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from predictions_api.settings import Settings
    from predictions_api.store.predictions import Prediction

LOG = logging.getLogger("predictions_api.service")
PREDICT: Final = "predict"  # the name of the workflow
DEADLINE_INTERVAL: Final = 0.5  # seconds
WORKERS_INTERVAL: Final = 1.0
START_TIMEOUT: Final = 3.0  # for a first look at the Cog servers
SWEEP_INTERVAL: Final = 60.0


class Service:
    """The parts of one server. Nothing runs before `open`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database or sqlite_url(settings.data / "predictions.sqlite"))
        self.records = Records(self.database)
        self.changes = Changes(self.records)
        self.metrics = Metrics()
        self.records.change_listeners.append(self._count_end)
        # Cog servers are reached directly, also if the environment configures a proxy.
        self.http = httpx.AsyncClient(limits=httpx.Limits(max_connections=None), trust_env=False)
        self._resolver = Resolver()
        self.workers = create_workers(settings, self.http, self._resolver)
        self.catalogue = Catalogue(settings.models, self.workers)
        self.files = Files(self.database, create_content(settings, self.database), retention=settings.keep)
        self.input_files = InputFiles(self.files, settings.callback_url)
        rules = partial(
            AddressRules, resolver=self._resolver, allow_loopback=settings.is_local, servers=self._server_urls
        )
        input_rules = rules(
            "inputs are fetched from there", "--allow-private-inputs", allow_private=settings.allow_private_inputs
        )
        webhook_rules = rules(
            "webhooks are sent there",
            "--allow-private-webhooks",
            allow_private=settings.allow_private_webhooks,
            needs_https=True,
        )
        self.fetcher = Fetcher(
            self.files.content, input_rules, limit=settings.input_limit, seconds=settings.input_timeout
        )
        self.inputs = Inputs(self.input_files, self.catalogue, self.fetcher, self.records, self.changes, self._enqueue)
        self.driver = Driver(settings, self.records, self.changes, self.files, self.inputs, self.workers, self.http)
        self.engine = Engine(self.database, settings.data)
        self.engine.register(PREDICT, self.driver.drive)
        self.engine.register(FETCH, self.inputs.fetch)
        self.webhooks = Webhooks(settings, self.database, self.records, self.changes, self.engine, webhook_rules)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop_event = asyncio.Event()

    async def open(self) -> None:
        """Start all parts, and continue the predictions of an earlier process."""
        self.settings.data.mkdir(parents=True, exist_ok=True)
        self.engine.take_lock()  # first, so that a second server changes nothing
        await self.database.open()
        await self.files.content.open()
        await self.changes.open()
        queues = {name: workers.size for name, workers in self.workers.items()}
        shared = {model.name for model in self.settings.models if model.urls}
        await self.engine.open(
            {**queues, **self.inputs.queues, **self.webhooks.queues},
            shared,
            lambda: self._start_task(self._enqueue_unended_with_retries()),
        )
        await self._enqueue_unended()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT):
                await asyncio.gather(*map(self._refresh_workers, self.workers))
        for name in self.workers:
            self._start_task(_every(WORKERS_INTERVAL, partial(self._refresh_workers, name)))
        self._start_task(_every(DEADLINE_INTERVAL, self.end_overdue))
        self._start_task(_every(WORKERS_INTERVAL, self.fail_unserved))
        self._start_task(_every(min(SWEEP_INTERVAL, self.settings.keep / 4), self.sweep))

    async def hand_over(self) -> None:
        """Stop running predictions, so that another server or the next process runs them again. Answer what waits."""
        if not self._stop_event.is_set():
            self._stop_event.set()
            await self.engine.hand_over()

    @property
    def is_stopping(self) -> bool:
        return self._stop_event.is_set()

    async def unless_stopping(self, wait: Coroutine[Any, Any, Prediction | None]) -> Prediction | None:
        """Return the result of a wait, or None at once when this server stops."""

        async def stop() -> None:
            await self._stop_event.wait()

        return await first_result(wait, stop())

    async def close(self) -> None:
        """Stop all parts."""
        await self.hand_over()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.engine.close()
        await self.webhooks.close()
        await asyncio.gather(*(workers.close() for workers in self.workers.values()))
        await self.changes.close()
        await self.fetcher.close()
        self._resolver.close()
        await self.http.aclose()
        await self.database.close()

    async def _enqueue_unended(self) -> None:
        """Queue predictions and webhooks that a crashed process recorded but did not queue. Others keep their place."""
        await self.webhooks.open()
        for prediction_id, model, has_url in await list_unended(self.database):
            await (self._enqueue_fetch if has_url else self._enqueue)(prediction_id, model)

    async def _enqueue_unended_with_retries(self) -> None:
        while True:
            try:
                return await self._enqueue_unended()
            except (Problem, SQLAlchemyError) as error:  # the database is unavailable
                LOG.warning("recovery failed, trying again: %s", error)
                await asyncio.sleep(1.0)

    def _server_urls(self) -> list[str]:
        """Return the URLs of this server and of its Cog servers that run now."""
        cog_urls = [url for workers in self.workers.values() for url in workers.urls]
        return [self.settings.address, self.settings.callback_url, *cog_urls]

    async def submit(self, prediction: Prediction) -> bool:
        """Record and queue a prediction. Return False if the queue is full."""
        if not await self.records.add(prediction, queue_limit=self.settings.queue_limit):
            return False
        self.changes.remember(prediction)
        LOG.info("queued for %s", prediction.model, extra={"prediction": prediction.id})
        enqueue = self._enqueue_fetch if may_need_fetch(prediction.input) else self._enqueue
        self._start_task(enqueue(prediction.id, prediction.model))  # not awaited: the queue may be locked
        return True

    def waiting_notice(self, model: str) -> str:
        """Return the first line of the logs of a new prediction if it has to wait for a Cog server."""
        return "" if self.workers[model].size else WAITING_NOTICE

    async def _enqueue(self, prediction_id: str, model: str) -> None:
        """Queue a prediction for its model."""
        await self._enqueue_workflow(model, PREDICT, prediction_id, prediction_id)

    async def _enqueue_fetch(self, prediction_id: str, model: str) -> None:
        """Queue a prediction for the fetching of its inputs, which then queues it for its model."""
        await self._enqueue_workflow(inputs.queue_name(model), FETCH, inputs.workflow_id(prediction_id), prediction_id)

    async def _enqueue_workflow(self, queue: str, workflow: str, workflow_id: str, prediction_id: str) -> None:
        """Queue a workflow unless it is queued already. Try again every second until that succeeds.

        The client has been promised the recorded prediction, and without a place in the queue it would wait forever.
        """
        while True:
            try:
                return await self.engine.enqueue(queue, workflow, workflow_id, prediction_id)
            except SQLAlchemyError as error:
                LOG.warning("queuing failed, trying again: %s", error, extra={"prediction": prediction_id})
                await asyncio.sleep(1.0)

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count_end(self, prediction: Prediction) -> None:
        if prediction.has_ended:
            times = (prediction.created_at, prediction.started_at, prediction.completed_at)
            self.metrics.count_end(prediction.model, prediction.status, *times)

    async def metrics_text(self) -> bytes:
        """Return this server's metrics, and the waiting and running predictions of all servers, for Prometheus."""
        sizes = {name: workers.size for name, workers in self.workers.items()}
        return self.metrics.text(await count_unended(self.database), sizes)

    async def cancel(self, prediction_id: str) -> Prediction | None:
        """End a prediction as canceled and return it, or None if it is missing. An ended prediction stays as it is.

        The driver that runs it, here or in another server, then stops it in Cog.
        """
        prediction = await self.records.get(prediction_id)
        if prediction is None or prediction.has_ended:
            return prediction
        canceled = await self.records.update(prediction_id, status="canceled")
        self._start_task(self._remove_from_queue(prediction))  # not awaited: the queue may be locked
        return canceled

    async def _remove_from_queue(self, prediction: Prediction) -> None:
        if prediction.worker is None:
            with contextlib.suppress(SQLAlchemyError):  # then its workflow runs later and returns at once
                await self.engine.remove_from_queue(prediction.id)

    async def end_overdue(self) -> None:
        """End predictions at their deadline: as `canceled` if a Cog server received them, else as `aborted`."""
        for prediction in await list_overdue(self.database):
            status = "aborted" if prediction.worker is None else "canceled"
            await self.records.update(prediction.id, status=status)
            await self._remove_from_queue(prediction)
            LOG.info("%s at its deadline", status, extra={"prediction": prediction.id})

    async def fail_unserved(self) -> None:
        """Fail the predictions for which no Cog server has been available for `setup_timeout` seconds."""
        bound = self.settings.setup_timeout
        for name, workers in self.workers.items():
            if outage := workers.describe_outage(bound):
                for prediction in await list_unserved(self.database, name, since=now() - int(bound * 1e6)):
                    key = prediction.callback_key
                    await self.driver.fail(
                        prediction.id, key, f"no Cog server became ready within {bound:g} s: {outage}"
                    )
                    await self._remove_from_queue(prediction)

    async def _refresh_workers(self, name: str) -> None:
        self.engine.set_concurrency(name, await self.workers[name].refresh())

    async def sweep(self) -> None:
        """Remove the data of predictions that ended more than `keep` seconds ago, and expired files."""
        oldest = now() - int(self.settings.keep * 1e6)
        while ids := await list_expired(self.database, ended_before=oldest):
            # Workflows first, as their ids come from these rows.
            await self.engine.delete_workflows([*ids, *map(inputs.workflow_id, ids), *map(webhooks.workflow_id, ids)])
            await remove_data(self.database, ids)
            LOG.info("removed the data of %d predictions", len(ids))
        await self.files.sweep()


async def _every(seconds: float, work: Callable[[], Awaitable[Any]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except (Problem, SQLAlchemyError, OSError) as error:
            LOG.warning("housekeeping: %s", error)
        except Exception:
            LOG.exception("housekeeping")
