"""The HTTP client of one Cog server, and the reading of what Cog tells us about a prediction.

Cog runs a prediction, forgets it, and tells its progress to a webhook alone; the webhook's address is the caller's, and
so is the choice of a server (workers.py). Measured on coglet 0.23.1.
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

if TYPE_CHECKING:
    from collections.abc import Mapping

END_STATUSES: Final = frozenset({"succeeded", "failed", "canceled"})
_EVENTS = ("start", "output", "logs", "completed")
_PREFIXES = ("Prediction failed: ", "Generator iteration error: ")  # Cog puts the first one on twice
_SLOT_TIMEOUT = 5.0  # Cog tells the end of a prediction a moment before it takes the next one
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)


class CogError(Exception):
    """A Cog server did not do what it was asked; the text can stand as a prediction's error."""


class Busy(CogError):
    """It has another prediction: ask another server, or this one again."""


class NotReady(CogError):
    """It is still setting up, or it is broken."""


class InvalidInputs(CogError):
    """It does not take these inputs; another server of the model would not either."""


class Unreachable(CogError):
    """It does not answer, or not as Cog does."""


class CogClient:
    """One Cog server at `url`."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url.rstrip("/")
        self._http = http

    async def start(self, prediction_id: str, inputs: Mapping[str, Any], webhook: str) -> bool:
        """Start a prediction whose progress goes to `webhook`; tell whether it is new to the server.

        False: it runs there already, and its progress goes where it was told first. Raises Busy, NotReady,
        InvalidInputs, Unreachable.
        """
        body = {
            "id": prediction_id,
            "input": dict(inputs),
            "webhook": webhook,
            "webhook_events_filter": list(_EVENTS),
        }
        began = time.monotonic()
        while True:
            # This very value: Cog compares the whole header.
            answer = await self._request("PUT", f"/predictions/{prediction_id}", body, {"Prefer": "respond-async"})
            if answer.status_code == httpx.codes.ACCEPTED:
                return bool(_members(answer).get("status") == "starting")
            if answer.status_code != httpx.codes.CONFLICT:
                raise _error(answer)
            if time.monotonic() > began + _SLOT_TIMEOUT:
                raise Busy(f"the Cog server at {self.url} is busy with another prediction")
            await asyncio.sleep(0.05)

    async def cancel(self, prediction_id: str) -> bool:
        """Ask for the end of a prediction; tell whether it runs there.

        Its end comes to the webhook. Cog loses a request that comes just as the prediction starts: ask again every
        few seconds until the end has come.
        """
        answer = await self._request("POST", f"/predictions/{prediction_id}/cancel", {})
        return answer.status_code == httpx.codes.OK

    async def health(self) -> str:
        """Return READY, BUSY, STARTING, or what else Cog says of itself; GONE where nothing answers."""
        try:
            return str((await self._get("/health-check")).get("status", "GONE"))
        except Unreachable:
            return "GONE"

    async def cog_version(self) -> str | None:
        """Return the version of Cog that runs there; raises Unreachable."""
        version = (await self._get("/health-check")).get("version") or {}
        return version.get("python_sdk") or version.get("cog")

    async def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema of its model; raises Unreachable."""
        return await self._get("/openapi.json")

    async def wait_for_failure(self) -> str:
        """Return when the server cannot run what it was given any more, with the reason."""
        silent_since = math.inf
        while True:
            await asyncio.sleep(2.0)
            health = await self.health()
            if health in ("READY", "BUSY", "STARTING"):
                silent_since = math.inf
                continue
            silent_since = min(silent_since, time.monotonic())
            # A network may fail for a moment. A server that calls itself broken has that long to tell the end itself.
            if time.monotonic() > silent_since + 10.0:
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
            why = f"{type(error).__name__} {error}".rstrip()
            raise Unreachable(f"the Cog server at {self.url} does not answer: {why}") from error


def _members(answer: httpx.Response) -> dict[str, Any]:
    try:
        members = answer.json()
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise Unreachable(f"what answers at {answer.url} is no Cog server: {answer.text[:200]!r}")
    return members


def _error(answer: httpx.Response) -> CogError:
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        return InvalidInputs(_input_faults(answer))
    text = f"the Cog server answered {answer.status_code}: {answer.text[:500]}"
    return NotReady(text) if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else Unreachable(text)


def _input_faults(answer: httpx.Response) -> str:
    """Return one line for each fault that Cog found."""
    try:
        return "\n".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in answer.json()["detail"])
    except (ValueError, KeyError, TypeError, IndexError):
        return answer.text[:500]


@dataclass(frozen=True)
class Progress:
    """What is known of a prediction. `output` is None as long as none is known; `error` belongs to `failed`."""

    status: str = "starting"
    output: Any = None
    logs: str = ""
    error: str | None = None
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing more will come."""
        return self.status in END_STATUSES

    def with_later(self, other: Progress) -> Progress:
        """Return both together, in whichever order they came: logs and outputs only grow, and an end stays the end."""
        if self.has_ended:
            return self
        if other.has_ended:
            known = self.output if other.output is None and other.status != "succeeded" else other.output
            return dataclasses.replace(other, output=known, logs=max(self.logs, other.logs, key=len))
        return Progress(
            status="processing" if "processing" in (self.status, other.status) else "starting",
            output=max(self.output, other.output, key=lambda output: len(output or ())),
            logs=max(self.logs, other.logs, key=len),
            metrics={**self.metrics, **other.metrics},
        )


def parse_progress(payload: Mapping[str, Any], *, streams: bool) -> Progress:
    """Read the body of one of Cog's webhooks; `streams` tells whether the model's output is an iterator.

    Outputs before the end count for an iterator alone: Cog puts any other model's only output into a list there.
    Raises ValueError for what Cog does not send.
    """
    status, logs, metrics = payload.get("status"), payload.get("logs") or "", payload.get("metrics") or {}
    if (
        status not in END_STATUSES | {"starting", "processing"}
        or not isinstance(logs, str)
        or not isinstance(metrics, dict)
    ):
        raise ValueError("this is no webhook of Cog's")
    output = payload.get("output")
    if status not in END_STATUSES and not (streams and isinstance(output, list)):
        output = None
    error = None
    if status == "failed":
        error = strip_error_prefixes(str(payload.get("error") or "the model failed without a word"))
    return Progress(status=status, output=output, logs=split_progress_lines(logs), error=error, metrics=metrics)


def strip_error_prefixes(text: str) -> str:
    """Return an error's text without the prefixes that Cog puts before the model's own."""
    for prefix in _PREFIXES:
        while text.startswith(prefix):
            text = text.removeprefix(prefix)
    return text


def split_progress_lines(logs: str) -> str:
    """Return logs with each update of a progress bar on a line of its own, as clients look for it.

    What begins with given logs begins, done so, with what those give.
    """
    return re.sub(r"\r+\n?", "\n", re.sub(r"(?m)^\r+", "", logs))
