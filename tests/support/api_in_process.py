"""The predictions API in a thread of the test's own process, without models: tests play the model's part themselves.

Its requests come over real connections; `do` runs a coroutine on its event loop, with its service.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from predictions_api.app import create_app
from predictions_api.run.service import Service
from predictions_api.settings import Settings
from predictions_api.store.database import random_key
from predictions_api.store.predictions import Prediction, new_id

T = TypeVar("T")
TOKEN = "r8_test"


class ApiInProcess:
    """A server on a free port of loopback. One at a time: DBOS is one for a process."""

    def __init__(self, data: Path, **settings: Any) -> None:
        # asyncio turns Nagle's delay of 40 ms off for sockets that say that they are TCP's.
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.socket.bind(("127.0.0.1", 0))
        port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        given = Settings(models=(), data=data, port=port, tokens=(TOKEN,))
        self.settings = dataclasses.replace(given, **settings)
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"})
        self.anyone = httpx.Client(base_url=self.url)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        app: Any = create_app(self.settings)
        self.service: Service = app.app.state.service
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        watching = asyncio.create_task(self._set_when_ready())
        await self._server.serve(sockets=[self.socket])
        watching.cancel()
        self._ready.set()

    async def _set_when_ready(self) -> None:
        while not self._server.started:
            await asyncio.sleep(0.01)
        self._ready.set()

    def __enter__(self) -> ApiInProcess:
        self._thread.start()
        assert self._ready.wait(60)
        assert self._server.started, "the server did not start; its log says why"
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.anyone.close()
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def prediction(self, **members: Any) -> Prediction:
        """Record a prediction that no queue knows of."""
        made = Prediction(
            id=new_id(),
            created_at=1_753_781_154_685_000,
            model="test/model",
            version="0" * 64,
            input={},
            callback_key=random_key(),
            **members,
        )
        assert self.do(self.service.records.add(made, queue_limit=10**6))
        return made

    def update(self, prediction: Prediction, **changes: Any) -> None:
        """Record what a model would have reported."""
        self.do(self.service.records.update(prediction.id, **changes))
