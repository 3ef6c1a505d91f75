"""Predictions as the JSON objects that clients see, in answers and in webhooks: Replicate's, field by field."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from predictions_api.store.file_urls import with_absolute_urls

if TYPE_CHECKING:
    from predictions_api.store.predictions import Prediction

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# The official clients that cannot read `aborted`: replicate 1.x for Python refuses the whole answer (and so the whole
# page of a list), replicate 1.x for JavaScript polls for ever. They are told `canceled`, which Replicate says of a
# deadline that passes a moment later.
CLIENTS_WITHOUT_ABORTED: Final = re.compile(r"replicate-(python|javascript)/")


def rfc3339(microseconds: int) -> str:
    """Return a time as Replicate writes it, to the microsecond, in UTC."""
    return (EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def prediction_body(
    prediction: Prediction, base: str, *, user_agent: str = "", with_logs: bool = True
) -> dict[str, Any]:
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
    if status == "aborted" and CLIENTS_WITHOUT_ABORTED.search(user_agent):
        status = "canceled"
    body: dict[str, Any] = {
        "id": prediction.id,
        "model": prediction.model,
        "version": prediction.version,
        "input": prediction.input,
        "logs": prediction.logs,
        "output": with_absolute_urls(prediction.output, base),
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
    if prediction.has_ended:
        body["metrics"] = prediction.metrics or {}
    if prediction.webhook is not None:
        body["webhook"] = prediction.webhook
        if prediction.webhook_events_filter is not None:
            body["webhook_events_filter"] = prediction.webhook_events_filter
    return body
