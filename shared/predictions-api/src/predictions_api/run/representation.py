"""Predictions as JSON objects in Replicate's format, for answers and webhooks."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from predictions_api.store.file_urls import with_absolute_urls
from predictions_api.store.paging import EPOCH

if TYPE_CHECKING:
    from predictions_api.store.predictions import Prediction

# Programs that show `aborted` to a person. Official clients reject it (Python) or poll forever (JavaScript), as may all
# clients that know the documented statuses of 2024. They receive `canceled`, the status for a deadline during the run.
CLIENTS_WITH_ABORTED: Final = re.compile(r"(curl|Wget|HTTPie)/", re.IGNORECASE)
# They return a FileOutput for a data: URI, but a string for an http: URL.
CLIENTS_WITH_FILE_OUTPUT: Final = re.compile(r"replicate-(python|javascript)/|Replicate/Python")


def rfc3339(microseconds: int) -> str:
    """Return a time in Replicate's format: UTC, with microseconds."""
    return (EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def prediction_body(
    prediction: Prediction, base: str, *, user_agent: str = "", with_logs: bool = True
) -> dict[str, Any]:
    """Return the object called schemas_prediction_response in Replicate's OpenAPI document.

    Members without a value yet are left out, as Replicate does. `user_agent`: of the client that receives the object.
    """
    url = f"{base}/v1/predictions/{prediction.id}"
    urls = {"cancel": f"{url}/cancel", "get": url, "web": url}
    if prediction.stream_key is not None:
        # The JavaScript client decides by this path whether outputs are files.
        path = "/v1/files/stream-" if prediction.streams_files else "/v1/streams/"
        urls["stream"] = f"{base}{path}{prediction.stream_key}"
    status = prediction.status
    if status == "aborted" and not CLIENTS_WITH_ABORTED.match(user_agent):
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
