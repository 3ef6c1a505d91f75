"""Answers to errors: RFC 7807 bodies that reveal no internals of the server."""

from __future__ import annotations

import errno
import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from predictions_api.errors import Problem, invalid_fields, not_found, unavailable

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

LOG = logging.getLogger("predictions_api.problems")


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"  # as Replicate sends it


def problem_response(problem: Problem) -> ProblemResponse:
    return ProblemResponse(problem.body(), problem.status, problem.headers)


def to_problem(error: Exception) -> Problem:
    """Return the Problem that is reported to the caller for an error."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        faults = [
            {"type": fault["type"], "field": ".".join(map(str, fault["loc"])), "description": fault["msg"]}
            for fault in error.errors()
        ]
        return invalid_fields(faults)
    if isinstance(error, HTTPException):
        if error.status_code == HTTPStatus.NOT_FOUND:
            return not_found()
        return Problem(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, ClientDisconnect):
        return Problem(400, "The client disconnected before the end of the body")  # not an error of this server
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return unavailable("The disk is full", retry_after=30)
    return Problem(500, "The server failed; see its log", title="Internal server error")


def install_handlers(app: FastAPI) -> None:
    async def handle(_request: Request, error: Exception) -> Response:
        problem = to_problem(error)
        if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            LOG.error("a request failed", exc_info=error)
        return problem_response(problem)

    for kind in (Problem, RequestValidationError, HTTPException, ClientDisconnect, OSError, Exception):
        app.add_exception_handler(kind, handle)
