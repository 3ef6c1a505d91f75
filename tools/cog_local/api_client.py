"""One prediction through a running predictions API, with the interface of a Cog server."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from tree import documented_name

from cog_local.server import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

_POLL_SECONDS = 0.2
_REQUEST_SECONDS = 60.0
_ENDED = ("succeeded", "failed", "canceled", "aborted")


class ApiClient:
    """A context manager that cancels a prediction that has not ended.

    on_log: called with each new line of the prediction's log.
    The environment variable REPLICATE_API_TOKEN is the token, as in Replicate's clients.
    """

    def __init__(self, url: str, model_dir: Path, on_log: Callable[[str], None]) -> None:
        self.url = url.rstrip("/")
        self._model = documented_name(model_dir.name).partition(":")[0]
        self._on_log = on_log
        self._running: str | None = None  # the id of the prediction

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            with contextlib.suppress(ServerError):
                self._json("POST", f"/v1/predictions/{self._running}/cancel")

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run one prediction and return it as Cog's server does, with its files as data URIs. Raises ServerError."""
        prediction = self._json("POST", f"/v1/models/{self._model}/predictions", {"input": dict(inputs)})
        if "id" not in prediction:
            return prediction
        self._running = prediction["id"]
        shown = ""
        while True:
            logs = str(prediction.get("logs") or "")
            if not logs.startswith(shown):  # the server has started the prediction again
                shown = ""
            *lines, last = logs.removeprefix(shown).split("\n")
            ended = prediction["status"] in _ENDED
            for line in [*lines, *([last] if ended and last else [])]:
                self._on_log(line)
            shown += "".join(f"{line}\n" for line in lines)
            if ended:
                break
            time.sleep(_POLL_SECONDS)
            prediction = self._json("GET", f"/v1/predictions/{self._running}")
        self._running = None
        output = prediction.get("output")
        if isinstance(output, list):
            return {**prediction, "output": [self._data_uri(value) for value in output]}
        return {**prediction, "output": self._data_uri(output)}

    def _data_uri(self, value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith(("http://", "https://")):
            return value
        content, headers = self._open(urllib.request.Request(value))
        return f"data:{headers.get_content_type()};base64,{base64.b64encode(content).decode()}"

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get("REPLICATE_API_TOKEN"):  # not for files, which may be stored at another host
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        answer: dict[str, Any] = json.loads(self._open(request)[0])
        return answer

    def _open(self, request: urllib.request.Request) -> tuple[bytes, Any]:
        """Return the content and the headers of an answer, also of one that refuses the inputs."""
        url = request.full_url
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as answer:
                return answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code == http.HTTPStatus.UNPROCESSABLE_ENTITY:
                return text.encode(), error.headers
            raise ServerError(f"{url}: {error.code} {_detail(text)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(f"{url} does not answer: {reason}; start it with script/serve") from None


def _detail(text: str) -> str:
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
