"""The HTTP client of one Cog server, and the parser of the progress that Cog reports.

Cog reports the progress of a prediction only to its webhook, and cannot be asked for it. Here such a call of Cog is a
"callback", and a "webhook" is a call to a client's URL. The behaviour was measured on coglet 0.23.1.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx

from predictions_api.strict_json import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

COG_END_STATUSES: Final = frozenset({"succeeded", "failed", "canceled"})
MAX_SCHEMA_VALUES: Final = 10**6
_PREFIXES = re.compile("(Prediction failed: )*(Generator iteration error: )*")  # Cog adds the first one twice
_SLOT_TIMEOUT = 0.5  # seconds; Cog reports the end of a prediction just before it accepts the next one
_HEALTH_INTERVAL = 2.0  # seconds between two looks at a server that runs a prediction
_STATE_AGE = 5.0  # seconds; an older state is not trusted
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)


class CogError(Exception):
    """A request to a Cog server failed. The text is fit to be the error of a prediction."""


class Busy(CogError):
    """The Cog server runs another prediction. Try another server, or this one later."""


class NotReady(CogError):
    """The Cog server is in its setup, or the setup failed."""


class InvalidInputs(CogError):
    """The inputs are invalid for the model, on every Cog server."""


class Unreachable(CogError):
    """The Cog server does not answer, or another server answers at its URL."""


class NotConnected(Unreachable):
    """No connection was made, so the request has not been received. Another server may be tried."""


class CogClient:
    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url.rstrip("/")
        self._http = http
        self.state = ""  # as last reported or concluded: READY, BUSY, STARTING or another status of Cog, or GONE
        self._state_at = 0.0

    def note(self, state: str) -> None:
        """Record the state of the server, where a request has shown it."""
        self.state, self._state_at = state, time.monotonic()

    @property
    def is_surely_ready(self) -> bool:
        """Return whether the server was ready a moment ago, so that it is not asked again."""
        return self.state == "READY" and time.monotonic() < self._state_at + _STATE_AGE

    async def start(self, prediction_id: str, inputs: Mapping[str, Any], webhook: str, *, streams: bool = True) -> bool:
        """Start a prediction whose progress is sent to `webhook`. Return whether it is new to the server.

        Without `streams` outputs before the end are not sent. If it already runs there, the server ignores this
        `webhook`. Raises Busy, NotReady, InvalidInputs, NotConnected, Unreachable.
        """
        body = {
            "id": prediction_id,
            "input": dict(inputs),
            "webhook": webhook,
            "webhook_events_filter": [*(["output"] if streams else []), "logs", "completed"],
        }
        self.note("BUSY")
        began, pause = time.monotonic(), 0.004
        while True:
            # Exactly this value, as Cog compares the whole header.
            answer = await self._request("PUT", f"/predictions/{prediction_id}", body, {"Prefer": "respond-async"})
            if answer.status_code == httpx.codes.ACCEPTED:
                return bool(_members(answer).get("status") == "starting")
            if answer.status_code != httpx.codes.CONFLICT:
                raise _error(answer)
            if time.monotonic() > began + _SLOT_TIMEOUT:
                raise Busy(f"the Cog server at {self.url} is busy with another prediction")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)

    async def cancel(self, prediction_id: str) -> bool:
        """Request the cancellation of a prediction. Return whether it runs there.

        The end is reported to the webhook. Cog loses a request that arrives just as the prediction starts, so repeat
        the request until this returns False.
        """
        answer = await self._request("POST", f"/predictions/{prediction_id}/cancel", {})
        return answer.status_code == httpx.codes.OK

    async def health(self) -> str:
        """Return READY, BUSY, STARTING or another status of Cog, or GONE if there is no answer."""
        try:
            state = str((await self._get("/health-check")).get("status", "GONE"))
        except Unreachable:
            state = "GONE"
        self.note(state)
        return state

    async def cog_version(self) -> str | None:
        """Return the version of Cog, or None if the server does not report it. Raises Unreachable."""
        version = (await self._get("/health-check")).get("version") or {}
        return version.get("python_sdk") or version.get("cog")

    async def schema(self) -> dict[str, Any]:
        return await self._get("/openapi.json")

    async def wait_for_failure(self) -> str:
        """Wait until the server can no longer finish its prediction. Return the reason."""
        failing_since = math.inf
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL)
            health = await self.health()
            if health in ("READY", "BUSY", "STARTING"):
                failing_since = math.inf
                continue
            failing_since = min(failing_since, time.monotonic())
            # 10 s for short network failures, and for a failed server to report the end itself.
            if time.monotonic() > failing_since + 10.0:
                return f"the Cog server at {self.url} is {health}"

    async def _get(self, path: str) -> dict[str, Any]:
        answer = await self._request("GET", path)
        if answer.is_error:
            raise _error(answer)
        return _members(answer)

    async def _request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        try:
            return await self._http.request(method, self.url + path, json=body, headers=headers, timeout=_TIMEOUT)
        except httpx.HTTPError as error:
            kind = NotConnected if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else Unreachable
            reason = f"{type(error).__name__} {error}".rstrip()
            raise kind(f"the Cog server at {self.url} does not answer: {reason}") from error


def _members(answer: httpx.Response) -> dict[str, Any]:
    try:
        members = parse(answer.content, max_values=MAX_SCHEMA_VALUES)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise Unreachable(f"the server at {answer.url} is not a Cog server; it answered {answer.text[:200]!r}")
    return members


def _error(answer: httpx.Response) -> CogError:
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        return InvalidInputs(_input_faults(answer))
    text = f"the Cog server answered {answer.status_code}: {answer.text[:500]}"
    return NotReady(text) if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else Unreachable(text)


def _input_faults(answer: httpx.Response) -> str:
    try:
        return "\n".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in parse(answer.content)["detail"])
    except (ValueError, KeyError, TypeError, IndexError):
        return answer.text[:500]


@dataclass(frozen=True)
class Progress:
    """The progress of a prediction, as far as Cog has reported it. `error` is set only if `status` is failed."""

    status: str = "starting"
    output: Any = None
    raw_logs: str = ""
    error: str | None = None
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.status in COG_END_STATUSES

    @property
    def logs(self) -> str:
        """Return the logs with each update of a progress bar on its own line. That takes time for long logs."""
        return split_progress_lines(self.raw_logs)

    def with_later(self, other: Progress) -> Progress:
        """Return both combined. The order of arrival does not matter: logs and outputs grow, and an end is final."""
        if self.has_ended:
            return self
        if other.has_ended:
            output = self.output if other.output is None and other.status != "succeeded" else other.output
            return dataclasses.replace(other, output=output, raw_logs=max(self.raw_logs, other.raw_logs, key=len))
        return Progress(
            status="processing" if "processing" in (self.status, other.status) else "starting",
            output=max(self.output, other.output, key=lambda output: len(output or ())),
            raw_logs=max(self.raw_logs, other.raw_logs, key=len),
            metrics={**self.metrics, **other.metrics},
        )


def parse_progress(payload: Mapping[str, Any], *, streams: bool) -> Progress:
    """Return the progress in the body of a callback. `streams`: whether the model's output is an iterator.

    Outputs before the end are read only for iterators: Cog wraps the single output of any other model in a list there.
    Raises ValueError for an unexpected body.
    """
    status, logs, metrics = payload.get("status"), payload.get("logs") or "", payload.get("metrics") or {}
    if (
        status not in COG_END_STATUSES | {"starting", "processing"}
        or not isinstance(logs, str)
        or not isinstance(metrics, dict)
    ):
        raise ValueError("the body is not that of a Cog webhook")
    output = payload.get("output")
    if status not in COG_END_STATUSES and not (streams and isinstance(output, list)):
        output = None
    error = None
    if status == "failed":
        error = strip_error_prefixes(str(payload.get("error") or "the model failed without an error message"))
    return Progress(status=status, output=output, raw_logs=logs, error=error, metrics=metrics)


def strip_error_prefixes(text: str) -> str:
    return _PREFIXES.sub("", text, count=1)


def split_progress_lines(logs: str) -> str:
    """Return logs with each update of a progress bar on its own line, where clients look for it.

    If logs B start with logs A, the result for B starts with the result for A.
    """
    return re.sub(r"\r+\n?", "\n", re.sub(r"(?m)^\r+", "", logs))
