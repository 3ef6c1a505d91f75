"""The predictions API in a thread of the test process, without models: tests record what a model would report.

Requests go over real connections. `run` runs a coroutine on the event loop of the server.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import uvicorn
from predictions_api.app import create_app
from predictions_api.run.service import Service
from predictions_api.settings import Settings
from predictions_api.store.database import random_key
from predictions_api.store.predictions import Prediction, new_id

T = TypeVar("T")
PIXEL = base64.b64decode(  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
PIXEL_URI = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
TOKEN = "r8_test"
RETRY_DELAYS = (0.05, 0.05, 0.05)  # seconds between the calls of a webhook


class ApiInProcess:
    """A server on a free port of loopback. A process can run one at a time, because DBOS has global state."""

    def __init__(self, data: Path, **settings: Any) -> None:
        # With an explicit IPPROTO_TCP asyncio sets TCP_NODELAY, which saves Nagle's delay of 40 ms.
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.socket.bind(("127.0.0.1", 0))
        port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        values = {"models": (), "tokens": (TOKEN,), "webhook_retry_delays": RETRY_DELAYS, **settings}
        self.settings = Settings(data=data, port=port, **values)
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"})
        self.anonymous_http = httpx.Client(base_url=self.url)
        self.service = Service(self.settings)
        app = create_app(self.service)
        self._server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self.service.open()
        await self._server.serve(sockets=[self.socket])
        await self.service.close()

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start; see its log"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.anonymous_http.close()
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def add_prediction(self, **members: Any) -> Prediction:
        """Record a prediction that is in no queue."""
        defaults = {"created_at": 1_753_781_154_685_000, "model": "test/model", "version": "0" * 64, "input": {}}
        prediction = Prediction(id=new_id(), callback_key=random_key(), **{**defaults, **members})
        assert self.run(self.service.records.add(prediction, queue_limit=10**6))
        return prediction

    def store_output(self, output: Any, prediction_id: str = "p" * 26) -> Any:
        """Return an output of a prediction with its files stored and replaced by their paths."""
        return self.run(self.service.files.store_output(prediction_id, output))

    def upload(self, content: bytes, name: str = "a.txt", content_type: str = "text/plain") -> Any:
        """Upload a file and return the JSON of the answer."""
        answer = self.http.post("/v1/files", files={"content": (name, content, content_type)})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def update(self, prediction: Prediction, **changes: Any) -> None:
        """Record what a model would report."""
        self.run(self.service.records.update(prediction.id, **changes))
