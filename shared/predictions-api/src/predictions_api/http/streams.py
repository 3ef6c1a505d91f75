"""Streams of server-sent events: what a prediction has put out so far, and then each next part as it comes.

Events lie in the database, numbered, so any server continues a stream where another one stopped: `id` is the time and
the number, and a reader that comes again with `Last-Event-ID` gets what follows. A URL is its own key.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from predictions_api.errors import Problem, not_found
from predictions_api.http.requests import base_url
from predictions_api.store.file_urls import with_absolute_urls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from predictions_api.run.service import Service
    from predictions_api.store.events import Event
    from predictions_api.store.predictions import Prediction

router = APIRouter(tags=["predictions"])

# Seconds without an event before a comment says that the stream is open. Clients wait for 30.
KEEPALIVE_INTERVAL: Final = 15.0
EVENT_ID: Final = re.compile(r"\d{1,19}:(\d{1,9})")
HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep events back until it has a few kilobytes
    "Access-Control-Allow-Origin": "*",  # EventSource in the page of an application
}


@router.get("/streams/{stream_key}", response_class=StreamingResponse)
@router.get("/files/stream-{stream_key}", response_class=StreamingResponse)
async def stream(request: Request, stream_key: str, last_event_id: str = Header("")) -> StreamingResponse:
    """Send a prediction's events: `output`, `logs`, `error`, `done`."""
    service: Service = request.app.state.service
    prediction = await service.records.find_by_stream_key(stream_key)
    if prediction is None or prediction.data_removed:
        raise not_found()
    found = EVENT_ID.fullmatch(last_event_id.strip())
    events = _events(service, prediction, int(found[1]) + 1 if found else 0, base_url(request))
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
            changed = await service.changes.wait(latest.id, latest.revision, KEEPALIVE_INTERVAL)
        except Problem:  # the database is away: the reader sees a stream that goes on
            await asyncio.sleep(1.0)
            changed = None
        if changed is None:
            yield ": still running\n\n"
        else:
            latest = changed


def format_event(event: Event, base_url: str) -> str:
    """Return an event as the HTML standard's section on server-sent events has it, with Replicate's form of ids."""
    data = with_absolute_urls(event.data, base_url) if event.kind == "output" else event.data
    lines = re.split(r"\r\n|\r|\n", data)
    return "".join(
        [
            f"event: {event.kind}\n",
            f"id: {event.at // 1_000_000}:{event.seq}\n",
            *(f"data: {line}\n" for line in lines),
            "\n",
        ]
    )
