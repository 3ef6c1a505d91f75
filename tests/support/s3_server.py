"""An S3 server of the test process, whose buckets stay while it is stopped."""

from __future__ import annotations

import re
from typing import Self

import httpx
from moto.server import ThreadedMotoServer
from ports import free_port


class S3Server:
    """A context manager. `environ` has the variables with which the predictions API uses the server."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {"AWS_ENDPOINT_URL": self.url, "AWS_REGION": "us-east-1"}
        self.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret"}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()
        self._server._server.server_close()

    def make_bucket(self, name: str) -> None:
        httpx.put(f"{self.url}/{name}", timeout=60).raise_for_status()

    def keys(self, bucket: str) -> list[str]:
        """Return the keys of all objects in a bucket."""
        answer = httpx.get(f"{self.url}/{bucket}?list-type=2", timeout=60)
        return re.findall("<Key>(.*?)</Key>", answer.raise_for_status().text)
