"""Answers with predictions, in the form that the client understands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse, Response

from predictions_api.http.requests import base_url
from predictions_api.run.representation import prediction_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request

    from predictions_api.store.predictions import Prediction


def prediction_answer(
    request: Request, prediction: Prediction, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the answer with one prediction."""
    return JSONResponse(_body(request, prediction), status, headers)


async def page_answer(request: Request, predictions: Iterable[Prediction], links: Mapping[str, str | None]) -> Response:
    """Return the answer with a page of predictions, without their logs. `links`: the members next and previous.

    It is rendered in a thread and row by row, as 100 predictions may have 100 MB of inputs.
    """

    def render() -> bytes:
        rows = (JSONResponse(_body(request, prediction, with_logs=False)).body for prediction in predictions)
        return bytes(JSONResponse(links).body)[:-1] + b',"results":[' + b",".join(rows) + b"]}"

    return Response(await asyncio.to_thread(render), media_type="application/json")


def _body(request: Request, prediction: Prediction, *, with_logs: bool = True) -> dict[str, Any]:
    user_agent = request.headers.get("user-agent", "")
    return prediction_body(prediction, base_url(request), user_agent=user_agent, with_logs=with_logs)
