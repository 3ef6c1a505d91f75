"""The routes of predictions, and the route for the callbacks of Cog servers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from predictions_api.errors import Problem, not_found
from predictions_api.http.answers import page_answer, prediction_answer
from predictions_api.http.requests import (
    CALLBACK_LIMIT,
    CALLBACK_VALUES,
    base_url,
    read_json,
    seconds_to_live,
    seconds_to_wait,
    service_of,
)
from predictions_api.http.validation import (
    BY_MODEL_SCHEMA,
    BY_VERSION_SCHEMA,
    CreateRequest,
    check_inputs,
    check_request,
    describe_ignored_inputs,
)
from predictions_api.store.database import now, random_key
from predictions_api.store.file_urls import with_absolute_urls
from predictions_api.store.paging import PAGE_SIZE, Cursor, page_url, parse_time
from predictions_api.store.predictions import Prediction, new_id

if TYPE_CHECKING:
    from predictions_api.run.catalogue import Version

router = APIRouter(tags=["predictions"])
callbacks = APIRouter(include_in_schema=False)

QUEUE_FULL_RETRY_AFTER: Final = 30

Wait = Annotated[str, Header(description="Answer when the prediction has ended: `wait`, or `wait=n` with 1 to 60 s")]
CancelAfter = Annotated[
    str | None, Header(description="Cancel the prediction after this time, e.g. 90s, 5m or 1h30m; at least 5 s")
]


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post("/predictions", status_code=201, openapi_extra=_body(BY_VERSION_SCHEMA))
async def create_prediction(request: Request, prefer: Wait = "", cancel_after: CancelAfter = None) -> JSONResponse:
    """Create and queue a prediction. Answers at once, or with `Prefer: wait` when it has ended."""
    arrived = time.monotonic()
    create_request = check_request(await read_json(request), needs_version=True)
    version = await service_of(request).catalogue.find(create_request.version or "")
    return await _create(request, create_request, version, prefer, cancel_after, arrived)


@router.post("/models/{owner}/{name}/predictions", status_code=201, openapi_extra=_body(BY_MODEL_SCHEMA))
async def create_model_prediction(
    request: Request, owner: str, name: str, prefer: Wait = "", cancel_after: CancelAfter = None
) -> JSONResponse:
    """Create a prediction of a model's newest version."""
    arrived = time.monotonic()
    catalogue = service_of(request).catalogue
    model = catalogue.model(owner, name)
    create_request = check_request(await read_json(request), needs_version=False)
    return await _create(request, create_request, await catalogue.find(model.name), prefer, cancel_after, arrived)


@router.post("/models/{segment}/predictions", include_in_schema=False)
async def create_prediction_of_no_model() -> None:
    """Answer 404, as a model has two segments. Otherwise 405, as GET of this path is that of a model `predictions`."""
    raise not_found()


async def _create(
    request: Request,
    create_request: CreateRequest,
    version: Version,
    prefer: str,
    cancel_after: str | None,
    arrived: float,
) -> JSONResponse:
    service = service_of(request)
    wait, lifetime = seconds_to_wait(prefer), seconds_to_live(cancel_after)
    inputs = check_inputs(version.openapi_schema, create_request.input)
    await service.input_files.own_urls(inputs)  # reports a missing upload now rather than after the queue
    if create_request.webhook is not None:
        await service.webhooks.check_url(create_request.webhook)
    prediction_id, moment = new_id(), now()
    file_inputs = {name: inputs[name] for name in version.file_inputs & inputs.keys()}
    inputs |= with_absolute_urls(await service.input_files.store_inputs(prediction_id, file_inputs), base_url(request))
    prediction = Prediction(
        id=prediction_id,
        created_at=moment,
        model=version.model,
        version=version.id,
        input=dict(sorted(inputs.items())),  # in the order in which Replicate returns them
        callback_key=random_key(),
        logs=describe_ignored_inputs(version.openapi_schema, version.model, create_request.input)
        + service.waiting_notice(version.model),
        deadline=None if lifetime is None else moment + lifetime * 1_000_000,
        webhook=create_request.webhook,
        webhook_events_filter=create_request.webhook_events_filter,
        stream_key=random_key(),
        streams_files=version.streams_files,
    )
    if not await service.submit(prediction):
        raise Problem(
            429,
            f"Request was throttled. {service.settings.queue_limit} predictions of {prediction.model} are waiting. "
            f"Your rate limit resets in ~{QUEUE_FULL_RETRY_AFTER}s.",
            fields={"retry_after": QUEUE_FULL_RETRY_AFTER},
            headers={"Retry-After": str(QUEUE_FULL_RETRY_AFTER)},
        )
    headers = {"Location": f"{base_url(request)}/v1/predictions/{prediction.id}"}
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait}"
        remaining = wait - (time.monotonic() - arrived)
        wait_for_end = service.changes.wait_for_end(prediction.id, remaining, after_revision=0)
        result = await service.unless_stopping(wait_for_end)
        prediction = result or prediction
    # If it has not ended, its status is `starting`, as the clients take any other status for an end.
    is_waiting = wait is not None
    return await prediction_answer(request, prediction, status=201, headers=headers, inlines=is_waiting)


@router.get("/predictions")
async def list_predictions(
    request: Request,
    cursor: Annotated[str | None, Query(description="Position in the list, as in `next` and `previous`")] = None,
    created_after: Annotated[str | None, Query(description="ISO 8601: created at or after this time")] = None,
    created_before: Annotated[str | None, Query(description="ISO 8601: created before this time")] = None,
    source: Annotated[str | None, Query(description="`web` gives an empty list, as this server has no website")] = None,
) -> Response:
    """List predictions, newest first, 100 a page, without their logs."""
    if source not in (None, "web", "api"):
        raise Problem(422, f"source={source[:32]!r} is unknown; give web or api, or omit it", title="Invalid query")
    position = None if cursor is None else Cursor.parse(cursor)
    rows = await service_of(request).records.page(
        size=PAGE_SIZE + 1,
        cursor=position,
        created_after=None if created_after is None else parse_time("created_after", created_after),
        created_before=None if created_before is None else parse_time("created_before", created_before),
        source=source,
    )
    has_more = len(rows) > PAGE_SIZE
    is_newer = position is not None and position.newer
    rows = rows[-PAGE_SIZE:] if is_newer else rows[:PAGE_SIZE]
    filters = {"created_after": created_after, "created_before": created_before, "source": source}
    query = {name: value for name, value in filters.items() if value is not None}
    links: dict[str, str | None] = {"next": None, "previous": None}
    if rows and (has_more or is_newer):
        links["next"] = page_url(base_url(request), "/predictions", Cursor(rows[-1].created_at, rows[-1].id), query)
    if rows and (has_more if is_newer else position is not None):
        links["previous"] = page_url(
            base_url(request), "/predictions", Cursor(rows[0].created_at, rows[0].id, True), query
        )
    return page_answer(request, rows, links)


@router.get("/predictions/{prediction_id}")
async def get_prediction(request: Request, prediction_id: str) -> JSONResponse:
    """Return a prediction as it is now."""
    return await _answer_or_example(request, prediction_id, await service_of(request).records.get(prediction_id))


@router.post("/predictions/{prediction_id}/cancel")
async def cancel_prediction(request: Request, prediction_id: str) -> JSONResponse:
    """Cancel a queued or running prediction. A prediction that has ended is returned unchanged."""
    return await _answer_or_example(request, prediction_id, await service_of(request).cancel(prediction_id))


async def _answer_or_example(request: Request, prediction_id: str, prediction: Prediction | None) -> JSONResponse:
    """Return the answer with a prediction; without one, with the example that has the id. Raises Problem 404."""
    if prediction is None:
        return JSONResponse(await service_of(request).catalogue.examples.find(prediction_id, base_url(request)))
    return await prediction_answer(request, prediction)


@callbacks.post("/callbacks/{prediction_id}/{key}")
async def receive(request: Request, prediction_id: str, key: str) -> Response:
    """Record the progress that a Cog server reports."""
    driver = service_of(request).driver
    if not driver.is_running(key):
        return Response(status_code=404)
    try:
        payload = await read_json(request, limit=CALLBACK_LIMIT, max_values=CALLBACK_VALUES)
    except Problem as problem:
        if problem.status in (400, 413):  # Cog does not call again
            await driver.fail(prediction_id, key, f"The report of the Cog server was refused: {problem.detail}")
        raise
    try:
        is_running = await driver.receive(prediction_id, key, payload)
    except ValueError as error:
        raise Problem(422, str(error)) from None
    return Response(status_code=200 if is_running else 404)
