"""The routes of predictions, and the one that Cog's servers call."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from predictions_api.errors import Problem, not_found
from predictions_api.http.requests import CALLBACK_LIMIT, base, read_json, seconds_to_live, seconds_to_wait
from predictions_api.http.validation import EVENTS, CreateRequest, check_inputs, check_request
from predictions_api.run.representation import prediction_body
from predictions_api.store.database import now, unguessable
from predictions_api.store.file_urls import absolute
from predictions_api.store.paging import SIZE, Cursor, page_url, parse_time
from predictions_api.store.predictions import Prediction, new_id

if TYPE_CHECKING:
    from predictions_api.run.catalogue import Version
    from predictions_api.run.service import Service

router = APIRouter(tags=["predictions"])
callbacks = APIRouter(include_in_schema=False)

QUEUE_IS_FULL_SECONDS: Final = 30

Wait = Annotated[str, Header(description="`wait`, or `wait=n` with n from 1 to 60 seconds: answer when it has ended")]
CancelAfter = Annotated[
    str | None, Header(description="Cancel it when it has not ended after that long: 90s, 5m, 1h30m; 5 s at least")
]


def _body(*, needs_version: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "input": {"type": "object", "description": "The model's inputs; files as URLs or data: URIs"},
        "webhook": {"type": "string", "format": "uri", "description": "Called when the prediction changes"},
        "webhook_events_filter": {
            "description": "Which changes; output and completed if left out. A string with commas will do as well.",
            "type": "array",
            "items": {"type": "string", "enum": list(EVENTS)},
        },
        "stream": {"type": "boolean", "deprecated": True, "description": "Without effect: urls.stream is always given"},
    }
    required = ["input"]
    if needs_version:
        description = "64 hexadecimal digits, owner/name:digits, or owner/name for its newest version"
        properties = {"version": {"type": "string", "description": description}, **properties}
        required = ["version", "input"]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post("/predictions", status_code=201, openapi_extra=_body(needs_version=True))
async def create_prediction(request: Request, prefer: Wait = "", cancel_after: CancelAfter = None) -> JSONResponse:
    """Create a prediction. It is queued, and answered at once unless `Prefer: wait` says otherwise."""
    arrived = time.monotonic()
    wanted = check_request(await read_json(request), needs_version=True)
    version = await _service(request).catalogue.find(wanted.version or "")
    return await _create(request, wanted, version, prefer, cancel_after, arrived)


@router.post("/models/{owner}/{name}/predictions", status_code=201, openapi_extra=_body(needs_version=False))
async def create_model_prediction(
    request: Request, owner: str, name: str, prefer: Wait = "", cancel_after: CancelAfter = None
) -> JSONResponse:
    """Create a prediction of a model's newest version."""
    arrived = time.monotonic()
    catalogue = _service(request).catalogue
    model = catalogue.model(owner, name)
    wanted = check_request(await read_json(request), needs_version=False)
    return await _create(request, wanted, await catalogue.find(model.full_name), prefer, cancel_after, arrived)


async def _create(
    request: Request, wanted: CreateRequest, version: Version, prefer: str, cancel_after: str | None, arrived: float
) -> JSONResponse:
    service = _service(request)
    wait, life = seconds_to_wait(prefer), seconds_to_live(cancel_after)
    inputs = check_inputs(version.openapi_schema, wanted.input)
    await service.files.resolve(inputs)  # an upload that is gone is told now, not after the queue
    if wanted.webhook is not None:
        await service.webhooks.check_url(wanted.webhook)
    prediction_id, moment = new_id(), now()
    given_files = {name: inputs[name] for name in version.file_inputs & inputs.keys()}
    inputs |= absolute(await service.files.store_inputs(prediction_id, given_files), base(request))
    prediction = Prediction(
        id=prediction_id,
        created_at=moment,
        model=version.model.full_name,
        version=version.id,
        input=dict(sorted(inputs.items())),  # in the order in which Replicate gives them back
        callback_key=unguessable(),
        deadline=None if life is None else moment + life * 1_000_000,
        webhook=wanted.webhook,
        webhook_events_filter=None if wanted.webhook_events_filter is None else list(wanted.webhook_events_filter),
        stream_key=unguessable() if version.streams else None,
        streams_files=version.streams_files,
    )
    if not await service.submit(prediction):
        raise Problem(
            429,
            f"Request was throttled. {service.settings.queue_limit} predictions of {prediction.model} wait already. "
            f"Your rate limit resets in ~{QUEUE_IS_FULL_SECONDS}s.",
            fields={"retry_after": QUEUE_IS_FULL_SECONDS},
            headers={"Retry-After": str(QUEUE_IS_FULL_SECONDS)},
        )
    headers = {"Location": f"{base(request)}/v1/predictions/{prediction.id}"}
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait}"
        ended = await service.changes.wait_for_end(prediction.id, wait - (time.monotonic() - arrived))
        if ended is not None:
            # The official clients make FileOutputs of https: and data: URLs only.
            inlines = base(request).startswith("http:")
            output = await service.files.inline(ended.output) if inlines else ended.output
            prediction = dataclasses.replace(ended, output=output)
    # One that has not ended is told as it began: the clients take any other status than `starting` for an end.
    return JSONResponse(_public(request, prediction), 201, headers)


@router.get("/predictions")
async def list_predictions(
    request: Request,
    cursor: Annotated[str | None, Query(description="As in next and previous")] = None,
    created_after: Annotated[str | None, Query(description="ISO 8601; at or after")] = None,
    created_before: Annotated[str | None, Query(description="ISO 8601; before")] = None,
    source: Annotated[str | None, Query(description="`web`: those made on a website, of which there are none")] = None,
) -> JSONResponse:
    """List predictions, newest first, 100 a page, without their logs."""
    if source not in (None, "web", "api"):
        raise Problem(422, f"source={source[:32]!r} is not known; give web, or leave it out", title="Invalid query")
    place = None if cursor is None else Cursor.parse(cursor)
    rows = await _service(request).records.page(
        size=SIZE + 1,
        before=None if place is None or place.newer else (place.created_at, place.id),
        after=(place.created_at, place.id) if place is not None and place.newer else None,
        created_after=None if created_after is None else parse_time("created_after", created_after),
        created_before=None if created_before is None else parse_time("created_before", created_before),
        source=source,
    )
    more = len(rows) > SIZE
    upwards = place is not None and place.newer
    rows = rows[-SIZE:] if upwards else rows[:SIZE]
    given = {"created_after": created_after, "created_before": created_before, "source": source}
    query = {name: value for name, value in given.items() if value is not None}
    links: dict[str, str | None] = {"next": None, "previous": None}
    if rows and (more or upwards):
        links["next"] = page_url(base(request), "/predictions", Cursor(rows[-1].created_at, rows[-1].id), query)
    if rows and (more if upwards else place is not None):
        links["previous"] = page_url(base(request), "/predictions", Cursor(rows[0].created_at, rows[0].id, True), query)
    results = [_public(request, row, with_logs=False) for row in rows]
    return JSONResponse({**links, "results": results})


@router.get("/predictions/{prediction_id}")
async def get_prediction(request: Request, prediction_id: str) -> JSONResponse:
    """Return a prediction as it is now."""
    prediction = await _service(request).records.get(prediction_id)
    if prediction is None:
        raise not_found()
    return JSONResponse(_public(request, prediction))


@router.post("/predictions/{prediction_id}/cancel")
async def cancel_prediction(request: Request, prediction_id: str) -> JSONResponse:
    """Cancel a prediction, queued or running; one that has ended is returned as it is."""
    prediction = await _service(request).cancel(prediction_id)
    if prediction is None:
        raise not_found()
    return JSONResponse(_public(request, prediction))


@callbacks.post("/callbacks/{prediction_id}/{key}")
async def receive(request: Request, prediction_id: str, key: str) -> Response:
    """Take what a Cog server tells of a prediction."""
    service = _service(request)
    prediction = await service.records.get(prediction_id)
    if prediction is None or prediction.ended or prediction.callback_key != key:
        return Response(status_code=404)
    try:
        payload = await read_json(request, limit=CALLBACK_LIMIT)
    except Problem as problem:
        if problem.status in (400, 413):  # Cog does not call again
            await service.driver.fail(prediction_id, f"What the model's Cog server told was refused: {problem.detail}")
        raise
    try:
        streams = prediction.stream_key is not None  # the version may be none of today's
        known = await service.driver.receive(prediction_id, key, payload, streams=streams)
    except ValueError as error:
        raise Problem(422, str(error)) from None
    return Response(status_code=200 if known else 404)


def _public(request: Request, prediction: Prediction, *, with_logs: bool = True) -> dict[str, Any]:
    agent = request.headers.get("user-agent", "")
    return prediction_body(prediction, base(request), user_agent=agent, with_logs=with_logs)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
