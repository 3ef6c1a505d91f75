"""Webhooks: which changes of a prediction are told to whom, how often, and with what signature.

They run beside the predictions, as workflows of the engine: one for each prediction with a webhook, from its first
change on. It tells of the start, of outputs and of logs once each, whatever comes of it, and of the end until the
receiver takes it or a minute is over. The table of deliveries says how far it came, should its process die.
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

from predictions_api.errors import Problem
from predictions_api.run.addresses import CheckedTransport, Resolver, address_fault
from predictions_api.run.representation import prediction_body
from predictions_api.run.upkeep import list_undelivered
from predictions_api.store.database import deliveries, get_or_create_secret, now

if TYPE_CHECKING:
    import ssl

    from predictions_api.run.engine import Engine
    from predictions_api.settings import Settings
    from predictions_api.store.changes import Changes
    from predictions_api.store.database import Database
    from predictions_api.store.predictions import Prediction
    from predictions_api.store.records import Records

LOG = logging.getLogger("predictions_api.webhooks")
QUEUE: Final = "webhooks"
DEFAULT_EVENTS: Final = ("output", "completed")  # Replicate's OpenAPI, webhook_events_filter
MIN_INTERVAL: Final = 0.5  # seconds between two calls of one prediction's outputs and logs
RESPONSE_TIMEOUT: Final = 5.0  # seconds that a receiver has
RESOLVE_TIMEOUT: Final = 2.0  # seconds that its name's resolution may hold up a create
MAX_CALLS: Final = 256  # calls of this process
MAX_CALLS_PER_HOST: Final = 8  # so that a slow receiver's calls wait for each other, and no one else's for them


@dataclass(frozen=True)
class Delivery:
    """A row of the table: how often an event was sent, and what came of it."""

    attempts: int = 0
    last_status: int | None = None
    error: str | None = None
    delivered_at: int | None = None


def workflow_id(prediction_id: str) -> str:
    """Return the id by which the engine knows the workflow of a prediction's webhook."""
    return f"webhook-{prediction_id}"


def new_secret() -> str:
    """Return a signing secret. Its base64 has no underscore: the Python client splits at it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def signature_headers(key: str, message_id: str, moment: datetime, body: str) -> dict[str, str]:
    """Return the headers that Standard Webhooks asks for; `moment` is in UTC."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(key).sign(message_id, moment, body),
    }


class Webhooks:
    """The webhooks of one process. A call has the body that GET would answer."""

    queues: Final = {QUEUE: 1000}  # predictions told of at a time; each is a task that mostly waits

    def __init__(
        self,
        settings: Settings,
        database: Database,
        records: Records,
        changes: Changes,
        engine: Engine,
        *,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self.settings = settings
        self.database = database
        self.records = records
        self.changes = changes
        self.engine = engine
        self.secret = ""  # until open
        self._resolver = Resolver()
        self._private = settings.allow_private_webhooks
        transport = CheckedTransport(self._resolver, private=self._private, verify=verify)
        self._http = httpx.AsyncClient(transport=transport, follow_redirects=False, timeout=RESPONSE_TIMEOUT)
        self._slots = asyncio.Semaphore(MAX_CALLS)
        self._host_slots: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._enqueue_tasks: set[asyncio.Task[None]] = set()
        engine.register(QUEUE, self.deliver)
        records.change_listeners.append(self._enqueue_if_due)

    async def open(self) -> None:
        """Begin, and take up what a process left that died between a prediction's end and the word of it."""
        self.secret = await get_or_create_secret(self.database, "webhooks", new_secret)
        for prediction_id in await list_undelivered(self.database):
            await self._enqueue(prediction_id)

    async def close(self) -> None:
        """Stop. What is not told yet is told by the next process."""
        tasks = list(self._enqueue_tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()
        self._resolver.close()

    def _enqueue_if_due(self, prediction: Prediction) -> None:
        # A Cog server got it, or it ended, maybe without one. A second time does nothing.
        if prediction.webhook is not None and (prediction.status == "starting" or prediction.has_ended):
            task = asyncio.create_task(self._enqueue(prediction.id))
            self._enqueue_tasks.add(task)
            task.add_done_callback(self._enqueue_tasks.discard)

    async def _enqueue(self, prediction_id: str) -> None:
        while True:
            try:
                return await self.engine.enqueue(QUEUE, QUEUE, workflow_id(prediction_id), prediction_id)
            except (Problem, SQLAlchemyError) as error:  # the database is away
                LOG.warning("webhook not queued yet: %s", error, extra={"prediction": prediction_id})
                await asyncio.sleep(1.0)

    async def check_url(self, url: str) -> None:
        """Raise Problem 422 for a URL that no webhook is sent to. A name that cannot be resolved now may be later."""
        fault: str | None
        try:
            parsed = httpx.URL(url)
            scheme, host, port = parsed.scheme, parsed.host, parsed.port or 0
        except (httpx.InvalidURL, ValueError) as error:  # ValueError: a host or a letter that cannot be encoded
            fault = f"not a valid URL: {error}"
        else:
            if scheme not in ("http", "https") or not host or port > 65535:
                fault = "not an https:// URL"
            else:
                fault = address_fault(host, scheme, await self._addresses(host), private=self._private)
        if fault is not None:
            raise Problem(
                422,
                f"- webhook: {fault}\n",
                title="Input validation failed",
                fields={"invalid_fields": [{"type": "format", "field": "webhook", "description": fault}]},
            )

    async def _addresses(self, host: str) -> list[str]:
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                return await self._resolver.resolve(host)
        except (OSError, TimeoutError):
            return []

    async def deliver(self, prediction_id: str) -> None:
        """Tell of one prediction until its end. May be called again after its process died."""
        prediction = await self.records.get(prediction_id)
        if prediction is not None and prediction.webhook is not None:
            await self._deliver_changes(prediction)
            await self._deliver_end(prediction_id)

    async def _deliver_changes(self, latest: Prediction) -> None:
        wanted = webhook_events(latest)
        start_due = "start" in wanted and (await self.delivery(latest.id, "start")).attempts == 0
        output, logs = None, ""  # what the receiver knows
        clock, earliest = asyncio.get_running_loop().time, 0.0
        while True:
            if start_due and latest.started_at is not None:
                start_due = False
                await self._send_and_record(_started_state(latest), "start")
            pause: float | None = None if latest.has_ended else 3600.0
            event = _due_event(latest, wanted, output, logs)
            if event is not None:
                pause = earliest - clock()
                if pause <= 0:
                    output, logs = latest.output, latest.logs
                    await self._send(latest, event, f"msg_{latest.id}_{event}_{latest.revision}")
                    earliest = clock() + MIN_INTERVAL  # from now: it may have waited for its turn
                    continue
            if pause is None:
                return
            latest = await self.changes.wait(latest.id, latest.revision, pause) or latest

    async def _deliver_end(self, prediction_id: str) -> None:
        while True:
            prediction = await self.records.get(prediction_id)
            if prediction is None or prediction.webhook is None or "completed" not in webhook_events(prediction):
                return
            before = await self.delivery(prediction_id, "completed")
            if before.delivered_at is not None or before.attempts > len(self.settings.webhook_retry_delays):
                return
            if before.attempts:
                await asyncio.sleep(self.settings.webhook_retry_delays[before.attempts - 1])
            outcome = await self._send_and_record(prediction, "completed", before.attempts)
            if outcome.delivered_at is not None or (outcome.last_status is not None and outcome.last_status < 400):
                return  # a redirect is not followed, and would come again

    async def delivery(self, prediction_id: str, event: str) -> Delivery:
        """Return what came of an event so far; only `start` and `completed` are recorded."""
        query = sa.select(deliveries).where(deliveries.c.prediction_id == prediction_id, deliveries.c.event == event)
        columns = query.with_only_columns(
            deliveries.c.attempts, deliveries.c.last_status, deliveries.c.error, deliveries.c.delivered_at
        )
        return await self.database.read(lambda connection: Delivery(*(connection.execute(columns).one_or_none() or ())))

    async def _send_and_record(self, prediction: Prediction, event: str, before: int = 0) -> Delivery:
        status, error = await self._send(prediction, event, f"msg_{prediction.id}_{event}")
        outcome = Delivery(before + 1, status, error, None if error else now())
        here = sa.and_(deliveries.c.prediction_id == prediction.id, deliveries.c.event == event)
        row = dataclasses.asdict(outcome)

        def work(connection: sa.Connection) -> None:
            if not connection.execute(sa.update(deliveries).where(here).values(row)).rowcount:
                connection.execute(sa.insert(deliveries).values(prediction_id=prediction.id, event=event, **row))

        await self.database.run(work)
        return outcome

    async def _send(self, prediction: Prediction, event: str, message_id: str) -> tuple[int | None, str | None]:
        """Send once; return the answer's status, and what went wrong (None: nothing)."""
        assert prediction.webhook is not None
        host = httpx.URL(prediction.webhook).host
        slot = self._host_slots.setdefault(host, asyncio.Semaphore(MAX_CALLS_PER_HOST))
        body = json.dumps(prediction_body(prediction, self.settings.default_base))
        status: int | None = None
        async with slot, self._slots:
            try:
                async with asyncio.timeout(RESPONSE_TIMEOUT):
                    status = await self._post(prediction.webhook, message_id, body)
                error = None if 200 <= status < 300 else f"answered {status}"
                if status in range(300, 400):
                    error = f"answered {status}; redirects are not followed, so give the final URL"
            except TimeoutError:
                error = f"no answer within {RESPONSE_TIMEOUT:g} s"
            except Exception as failure:  # whatever it is, it is the receiver's or its URL's, and goes on record
                error = f"{type(failure).__name__}: {failure}"
        LOG.log(
            logging.INFO if error is None else logging.WARNING,
            "webhook %s to %s: %s",
            event,
            host,
            error or status,
            extra={"prediction": prediction.id},
        )
        return status, error

    async def _post(self, url: str, message_id: str, body: str) -> int:
        headers = {
            "content-type": "application/json",
            "user-agent": "predictions-api",
            **signature_headers(self.secret, message_id, datetime.now(UTC), body),
        }
        async with self._http.stream("POST", url, content=body, headers=headers) as answer:
            return answer.status_code  # its body is not read


def _started_state(prediction: Prediction) -> Prediction:
    """Return a prediction as it was when its model began: it may have gone on, and even ended, since."""
    return dataclasses.replace(
        prediction, status="processing", output=None, logs="", error=None, metrics=None, completed_at=None
    )


def webhook_events(prediction: Prediction) -> tuple[str, ...]:
    """Return which events a prediction's webhook is sent."""
    events_filter = prediction.webhook_events_filter
    return DEFAULT_EVENTS if events_filter is None else tuple(events_filter)


def _due_event(prediction: Prediction, wanted: tuple[str, ...], output: Any, logs: str) -> str | None:
    """Return which event is due for a receiver that knows these; none where the last call follows and tells all."""
    if prediction.has_ended and "completed" in wanted:
        return None
    if "output" in wanted and prediction.output is not None and prediction.output != output:
        return "output"
    return "logs" if "logs" in wanted and prediction.logs != logs else None
