"""A prediction: what is known of it, and the object that clients see, Replicate's, field by field."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from predictions_api.file_names import absolute

ENDED: Final = frozenset({"succeeded", "failed", "canceled", "aborted"})
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # the alphabet of Replicate's ids since 2024

# The official clients that cannot read `aborted`: replicate 1.x for Python refuses the whole answer (and so the whole
# page of a list), replicate 1.x for JavaScript polls for ever. They are told `canceled`, which Replicate says of a
# deadline that passes a moment later.
KNOWS_NO_ABORTED: Final = re.compile(r"replicate-(python|javascript)/")


@dataclass(frozen=True)
class Prediction:
    """A row of the table. Times are microseconds since 1970, UTC."""

    id: str
    created_at: int
    model: str
    version: str
    input: dict[str, Any]
    callback_key: str
    source: str = "api"
    status: str = "starting"
    output: Any = None
    logs: str = ""
    error: str | None = None
    metrics: dict[str, Any] | None = None
    started_at: int | None = None
    completed_at: int | None = None
    deadline: int | None = None
    webhook: str | None = None
    webhook_events_filter: list[str] | None = None
    revision: int = 0
    data_removed: bool = False
    stream_key: str | None = None
    streams_files: bool = False
    worker: str | None = None
    attempts: int = 0

    @property
    def ended(self) -> bool:
        """Tell whether nothing will change any more."""
        return self.status in ENDED


def new_id() -> str:
    """Return 26 letters and digits, 130 random bits, as Replicate's ids are."""
    return "".join(secrets.choice(CROCKFORD) for _ in range(26))


def rfc3339(microseconds: int) -> str:
    """Return a time as Replicate writes it, to the microsecond, in UTC."""
    return (EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def public(prediction: Prediction, base: str, *, user_agent: str = "", with_logs: bool = True) -> dict[str, Any]:
    """Return the object that Replicate's OpenAPI calls schemas_prediction_response.

    Members that Replicate leaves out until they are known are left out, and so is `logs` in rows of a list.
    """
    place = f"{base}/v1/predictions/{prediction.id}"
    urls = {"cancel": f"{place}/cancel", "get": place, "web": place}
    if prediction.stream_key is not None:
        # The JavaScript client takes outputs for files by this path, and only by it.
        path = "/v1/files/stream-" if prediction.streams_files else "/v1/streams/"
        urls["stream"] = f"{base}{path}{prediction.stream_key}"
    status = prediction.status
    if status == "aborted" and KNOWS_NO_ABORTED.search(user_agent):
        status = "canceled"
    body: dict[str, Any] = {
        "id": prediction.id,
        "model": prediction.model,
        "version": prediction.version,
        "input": prediction.input,
        "logs": prediction.logs,
        "output": absolute(prediction.output, base),
        "data_removed": prediction.data_removed,
        "error": prediction.error,
        "source": prediction.source,
        "status": status,
        "created_at": rfc3339(prediction.created_at),
        "urls": urls,
    }
    if not with_logs:
        del body["logs"]
    for name in ("started_at", "completed_at", "deadline"):
        moment = getattr(prediction, name)
        if moment is not None:
            body[name] = rfc3339(moment)
    if prediction.ended:
        body["metrics"] = prediction.metrics or {}
    if prediction.webhook is not None:
        body["webhook"] = prediction.webhook
        if prediction.webhook_events_filter is not None:
            body["webhook_events_filter"] = prediction.webhook_events_filter
    return body
