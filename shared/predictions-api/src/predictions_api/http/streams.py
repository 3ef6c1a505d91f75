"""Streams of server-sent events with the outputs and logs of a prediction.

Events are stored in the database, so any server can continue a stream. The `id` of an event is its time and number.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response, StreamingResponse

from predictions_api.errors import Problem, not_found
from predictions_api.http.requests import base_url, service_of
from predictions_api.store.file_urls import with_absolute_urls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from predictions_api.run.service import Service
    from predictions_api.store.events import Event
    from predictions_api.store.predictions import Prediction

router = APIRouter(tags=["predictions"])

# Seconds without an event before a comment is sent. Clients time out after 30.
KEEPALIVE_INTERVAL: Final = 15.0
EVENT_ID: Final = re.compile(r"\d{1,19}:(\d{1,9})")
HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # otherwise nginx buffers a few kilobytes of events
}


@router.get("/streams/{stream_key}", response_class=StreamingResponse)
@router.get("/files/stream-{stream_key}", response_class=StreamingResponse)
async def stream(request: Request, stream_key: str, last_event_id: str = Header("")) -> Response:
    """Send a prediction's events: `output`, `logs`, `error`, `done`. 204 after the last one ends an EventSource."""
    service = service_of(request)
    prediction = await service.records.find_by_stream_key(stream_key)
    if prediction is None or prediction.data_removed:
        raise not_found()
    match = EVENT_ID.fullmatch(last_event_id.strip())
    first = int(match[1]) + 1 if match else 0
    if prediction.has_ended and first > 0 and not await service.records.events(prediction.id, first):
        return Response(status_code=204, headers=HEADERS)
    if request.method == "HEAD":
        return Response(media_type="text/event-stream", headers=HEADERS)
    events = _events(service, prediction, first, base_url(request))
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


async def _events(service: Service, prediction: Prediction, seq: int, base_url: str) -> AsyncIterator[str]:
    latest = prediction
    while True:
        for event in await service.records.events(latest.id, seq):
            seq = event.seq + 1
            yield format_event(event, base_url)
        if latest.has_ended:
            return
        try:
            wait = service.changes.wait(latest.id, latest.revision, KEEPALIVE_INTERVAL)
            changed = await service.unless_stopping(wait)
        except Problem:  # the database is unavailable now; the stream stays open
            await asyncio.sleep(1.0)
            changed = None
        if service.is_stopping:  # the client connects to another server
            return
        if changed is None:
            yield ": still running\n\n"
        else:
            latest = changed


def format_event(event: Event, base_url: str) -> str:
    """Return an event in the format of server-sent events (HTML standard), with ids in Replicate's form."""
    data = with_absolute_urls(event.data, base_url) if event.kind == "output" else event.data
    lines = re.split(r"\r\n|\r|\n", data)
    head = f"event: {event.kind}\nid: {event.at // 1_000_000}:{event.seq}\n"
    return head + "".join(f"data: {line}\n" for line in lines) + "\n"
