"""Send signed webhooks about the changes of predictions, each prediction in its own workflow.

Events for the start, outputs and logs are sent once. The event for the end is retried for about a minute until the
receiver accepts it. The table of deliveries records the calls, so that another process can continue after a crash.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import logging
import secrets
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import httpx
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks import Webhook

from predictions_api.errors import Problem, invalid_fields
from predictions_api.run.addresses import CheckedTransport
from predictions_api.run.representation import prediction_body
from predictions_api.run.upkeep import list_undelivered
from predictions_api.store.database import deliveries, get_or_create_secret, now

if TYPE_CHECKING:
    from collections.abc import Collection

    from predictions_api.run.addresses import AddressRules
    from predictions_api.run.engine import Engine
    from predictions_api.settings import Settings
    from predictions_api.store.changes import Changes
    from predictions_api.store.database import Database
    from predictions_api.store.predictions import Prediction
    from predictions_api.store.records import Records

LOG = logging.getLogger("predictions_api.webhooks")
QUEUE: Final = "webhooks"
DEFAULT_EVENTS: Final = ("output", "completed")  # Replicate's OpenAPI, webhook_events_filter
MIN_INTERVAL: Final = 0.5  # seconds between two calls about outputs and logs of one prediction
RESPONSE_TIMEOUT: Final = 5.0  # seconds for the receiver to answer
RESOLVE_TIMEOUT: Final = 2.0  # seconds that name resolution may delay the creation of a prediction
MAX_CALLS: Final = 256  # at the same time in this process
MAX_CALLS_PER_HOST: Final = 8  # so that a slow receiver does not delay calls to others


@dataclass(frozen=True)
class Delivery:
    """A row of the table: the number of calls for an event and the result of the last one."""

    attempts: int = 0
    last_status: int | None = None
    error: str | None = None
    delivered_at: int | None = None


def workflow_id(prediction_id: str) -> str:
    return f"webhook-{prediction_id}"


def new_secret() -> str:
    """Return a signing secret, in base64 without underscores, as the Python client splits at them."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def signature_headers(key: str, message_id: str, moment: datetime, body: str) -> dict[str, str]:
    """Return the headers that Standard Webhooks requires. `moment` is in UTC."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(key).sign(message_id, moment, body),
    }


class Webhooks:
    """The webhooks of one process. The body of a call is the body that GET would return."""

    queues: Final = {QUEUE: 1000}  # predictions at the same time; each is a task that mostly waits

    def __init__(
        self,
        settings: Settings,
        database: Database,
        records: Records,
        changes: Changes,
        engine: Engine,
        rules: AddressRules,
    ) -> None:
        self.settings = settings
        self.database = database
        self.records = records
        self.changes = changes
        self.engine = engine
        self.secret = ""  # set by open
        self._rules = rules
        self._http = httpx.AsyncClient(transport=CheckedTransport(rules), timeout=RESPONSE_TIMEOUT)
        self._slots = asyncio.Semaphore(MAX_CALLS)
        self._host_slots: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._enqueue_tasks: set[asyncio.Task[None]] = set()
        self._enqueued: set[str] = set()  # predictions that this process queued and that run
        engine.register(QUEUE, self.deliver)
        records.change_listeners.append(self._enqueue_if_due)

    async def open(self) -> None:
        """Start, and queue the calls that a crashed process recorded no delivery for."""
        self.secret = await get_or_create_secret(self.database, "webhooks", new_secret)
        for prediction_id in await list_undelivered(self.database):
            await self._enqueue(prediction_id)

    async def close(self) -> None:
        """Stop. The next process sends what is left."""
        tasks = list(self._enqueue_tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()

    def _enqueue_if_due(self, prediction: Prediction) -> None:
        # The model has begun, or the prediction has ended, possibly without that. Queuing it again does nothing.
        is_due = prediction.has_ended or (prediction.status == "processing" and prediction.id not in self._enqueued)
        if prediction.webhook is not None and is_due:
            (self._enqueued.discard if prediction.has_ended else self._enqueued.add)(prediction.id)
            task = asyncio.create_task(self._enqueue(prediction.id))
            self._enqueue_tasks.add(task)
            task.add_done_callback(self._enqueue_tasks.discard)

    async def _enqueue(self, prediction_id: str) -> None:
        while True:
            try:
                return await self.engine.enqueue(QUEUE, QUEUE, workflow_id(prediction_id), prediction_id)
            except (Problem, SQLAlchemyError) as error:  # the database is unavailable
                LOG.warning("queuing the webhook failed, trying again: %s", error, extra={"prediction": prediction_id})
                await asyncio.sleep(1.0)

    async def check_url(self, url: str) -> None:
        """Raise Problem 422 for a URL that is not allowed. A host name that cannot be resolved now is allowed."""
        fault = await self._url_fault(url)
        if fault is not None:
            raise invalid_fields([{"type": "format", "field": "webhook", "description": fault}])

    async def _url_fault(self, url: str) -> str | None:
        """Return why no webhook may be sent to a URL, or None."""
        try:
            parsed = httpx.URL(url)
            host = parsed.host
        except (httpx.InvalidURL, ValueError) as error:  # ValueError: a host or a character that cannot be encoded
            return f"not a valid URL: {error}"
        if parsed.scheme not in ("http", "https") or not host or (parsed.port or 0) > 65535:
            return "not an https:// URL"
        return await self._rules.fault(parsed, await self._addresses(host))

    async def _addresses(self, host: str) -> list[str]:
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                return await self._rules.resolver.resolve(host)
        except (OSError, TimeoutError):
            return []

    async def deliver(self, prediction_id: str) -> None:
        """Send the webhooks of one prediction until its end. May be called again after a crash."""
        prediction = await self.records.get(prediction_id)
        if prediction is not None and prediction.webhook is not None:
            await self._deliver_changes(prediction)
            await self._deliver_end(prediction_id)

    async def _deliver_changes(self, latest: Prediction) -> None:
        selected = _selected_events(latest)
        is_start_due = "start" in selected and (await self.delivery(latest.id, "start")).attempts == 0
        output, logs = None, ""  # as last sent
        clock, earliest = asyncio.get_running_loop().time, 0.0
        while True:
            if is_start_due and latest.started_at is not None:
                is_start_due = False
                await self._send_and_record(_started_state(latest), "start")
            pause: float | None = None if latest.has_ended else 3600.0
            event = _due_event(latest, selected, output, logs)
            if event is not None:
                pause = earliest - clock()
                if pause <= 0:
                    output, logs = latest.output, latest.logs
                    await self._send(latest, event, f"msg_{latest.id}_{event}_{latest.revision}")
                    earliest = clock() + MIN_INTERVAL  # from now on, as the call may have waited for a slot
                    continue
            if pause is None:
                return
            latest = await self.changes.wait(latest.id, latest.revision, pause) or latest

    async def _deliver_end(self, prediction_id: str) -> None:
        while True:
            prediction = await self.records.get(prediction_id)
            if prediction is None or prediction.webhook is None or "completed" not in _selected_events(prediction):
                return
            previous = await self.delivery(prediction_id, "completed")
            if previous.delivered_at is not None or previous.attempts > len(self.settings.webhook_retry_delays):
                return
            if previous.attempts:
                await asyncio.sleep(self.settings.webhook_retry_delays[previous.attempts - 1])
            result = await self._send_and_record(prediction, "completed", previous.attempts)
            if result.delivered_at is not None or (result.last_status is not None and result.last_status < 400):
                return  # a retry would get the same redirect

    async def delivery(self, prediction_id: str, event: str) -> Delivery:
        """Return the delivery of an event. Only `start` and `completed` are recorded."""
        columns = (deliveries.c.attempts, deliveries.c.last_status, deliveries.c.error, deliveries.c.delivered_at)
        is_this = (deliveries.c.prediction_id == prediction_id, deliveries.c.event == event)
        rows = await self.database.rows(sa.select(*columns).where(*is_this))
        return Delivery(*rows[0]) if rows else Delivery()

    async def _send_and_record(self, prediction: Prediction, event: str, previous_attempts: int = 0) -> Delivery:
        status, error = await self._send(prediction, event, f"msg_{prediction.id}_{event}")
        delivery = Delivery(previous_attempts + 1, status, error, None if error else now())
        is_this = sa.and_(deliveries.c.prediction_id == prediction.id, deliveries.c.event == event)
        row = dataclasses.asdict(delivery)

        def work(connection: sa.Connection) -> None:
            if not connection.execute(sa.update(deliveries).where(is_this).values(row)).rowcount:
                connection.execute(sa.insert(deliveries).values(prediction_id=prediction.id, event=event, **row))

        await self.database.run(work)
        return delivery

    async def _send(self, prediction: Prediction, event: str, message_id: str) -> tuple[int | None, str | None]:
        """Send one call. Return the status of the answer and an error text. Either may be None."""
        assert prediction.webhook is not None
        host = httpx.URL(prediction.webhook).host
        host_slots = self._host_slots.setdefault(host, asyncio.Semaphore(MAX_CALLS_PER_HOST))
        body = json.dumps(prediction_body(prediction, self.settings.default_base))
        status: int | None = None
        async with host_slots, self._slots:
            try:
                async with asyncio.timeout(RESPONSE_TIMEOUT):
                    status = await self._post(prediction.webhook, message_id, body)
                error = None if 200 <= status < 300 else f"answered {status}"
                if status in range(300, 400):
                    error = f"answered {status}; redirects are not followed, so give the final URL"
            except TimeoutError:
                error = f"no answer within {RESPONSE_TIMEOUT:g} s"
            except Exception as failure:  # any fault of the receiver or the URL is recorded
                error = f"{type(failure).__name__}: {failure}"
        level = logging.INFO if error is None else logging.WARNING
        extra = {"prediction": prediction.id}
        LOG.log(level, "webhook %s to %s: %s", event, host, error or status, extra=extra)
        return status, error

    async def _post(self, url: str, message_id: str, body: str) -> int:
        headers = {
            "content-type": "application/json",
            "user-agent": "predictions-api",
            **signature_headers(self.secret, message_id, datetime.now(UTC), body),
        }
        async with self._http.stream("POST", url, content=body, headers=headers) as answer:
            return answer.status_code  # the body of the answer is not read


def _started_state(prediction: Prediction) -> Prediction:
    """Return a prediction as it was when the model started. It may have changed or ended since."""
    return dataclasses.replace(
        prediction, status="processing", output=None, logs="", error=None, metrics=None, completed_at=None
    )


def _selected_events(prediction: Prediction) -> Collection[str]:
    return DEFAULT_EVENTS if prediction.webhook_events_filter is None else prediction.webhook_events_filter


def _due_event(prediction: Prediction, selected: Collection[str], output: Any, logs: str) -> str | None:
    """Return the event that is due after `output` and `logs` were sent, or None. `completed` includes all others."""
    if prediction.has_ended and "completed" in selected:
        return None
    if "output" in selected and prediction.output is not None and prediction.output != output:
        return "output"
    return "logs" if "logs" in selected and prediction.logs != logs else None
