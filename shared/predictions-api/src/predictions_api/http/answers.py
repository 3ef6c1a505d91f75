"""Answers with predictions, in the form that the client understands."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any, Final

from fastapi.responses import JSONResponse, StreamingResponse

from predictions_api.http.requests import base_url, service_of
from predictions_api.run.representation import CLIENTS_WITH_FILE_OUTPUT, prediction_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from starlette.requests import Request

    from predictions_api.store.predictions import Prediction

ROWS_PER_PART: Final = 10


async def prediction_answer(
    request: Request,
    prediction: Prediction,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    inlines: bool = False,
) -> JSONResponse:
    """Return the answer with one prediction.

    Over plain HTTP, files up to 10 MB are data: URIs with `inlines` and for official clients, as these return
    FileOutputs only for https: and data: URLs.
    """
    if base_url(request).startswith("http:") and prediction.output is not None:
        agent = request.headers.get("user-agent", "")
        if inlines or CLIENTS_WITH_FILE_OUTPUT.search(agent):
            output = await service_of(request).files.inline(prediction.output)
            prediction = dataclasses.replace(prediction, output=output)
    return JSONResponse(_body(request, prediction), status, headers)


def page_answer(
    request: Request, predictions: Sequence[Prediction], links: Mapping[str, str | None]
) -> StreamingResponse:
    """Return the answer with a page of predictions, without their logs. `links`: the members next and previous.

    It is rendered and sent in parts, as 100 predictions may have 100 MB of inputs.
    """

    async def parts() -> AsyncIterator[bytes]:
        start = bytes(JSONResponse(links).body)[:-1] + b',"results":['
        for first in range(0, len(predictions), ROWS_PER_PART):
            rows = predictions[first : first + ROWS_PER_PART]
            yield start + await asyncio.to_thread(render, rows)
            start = b","
        yield b"]}" if predictions else start + b"]}"

    def render(rows: Sequence[Prediction]) -> bytes:
        return b",".join(JSONResponse(_body(request, row, with_logs=False)).body for row in rows)

    return StreamingResponse(parts(), media_type="application/json")


def _body(request: Request, prediction: Prediction, *, with_logs: bool = True) -> dict[str, Any]:
    user_agent = request.headers.get("user-agent", "")
    return prediction_body(prediction, base_url(request), user_agent=user_agent, with_logs=with_logs)
