"""Store bytes in an S3-compatible bucket, whose presigned URLs deliver them, so that they pass through no API server.

Each object belongs to one row of the table of files and is called after its id. The row is written before the object
and deleted after it, so every object has a row, whenever a server stops. Nothing is shared by two rows: S3 has neither
a rename nor a deletion on a condition, so a deletion could remove what another server has just stored. A presigned URL
has the object's own Content-Type and Content-Disposition, which two rows with equal bytes may not have in common.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from predictions_api.errors import StartFault, unavailable
from predictions_api.store.content import Content
from predictions_api.store.database import random_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from predictions_api.store.content import Part
    from predictions_api.store.stored_file import File

LOG = logging.getLogger("predictions_api.bucket")
URL_LIFETIME: Final = timedelta(hours=1)
RETRIES: Final[Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
CLIENT: Final[Any] = {"allow_http": True, "connect_timeout": "3 seconds", "timeout": "60 seconds"}  # per request
# S3 sends no CORS headers for an image. A browser must not use its stored answer when a page then fetches the file.
NO_STORE: Final = {"Cache-Control": "no-store"}
ADVICE: Final = "make the bucket, or set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL"


class Bucket(Content):
    """The content in a bucket, given as s3://NAME or s3://NAME/PREFIX. Parts are in a directory of this server."""

    def __init__(self, url: str, parts: Path) -> None:
        super().__init__(parts)
        self.url = url
        self._stored: deque[str] = deque(maxlen=1000)  # ids, as Cog repeats all outputs with each step

    async def open(self) -> None:
        """Write, read and delete an object. Raises StartFault if one of that fails."""
        await super().open()
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        if endpoint is not None and not (urlsplit(endpoint).scheme in ("http", "https") and urlsplit(endpoint).netloc):
            raise StartFault(f"AWS_ENDPOINT_URL is {endpoint!r}; give an http:// or https:// URL, or unset it for AWS")
        place, key = urlsplit(self.url), f"start-{random_key()}"
        try:
            self._store = S3Store(
                place.netloc, prefix=place.path.strip("/") or None, client_options=CLIENT, retry_config=RETRIES
            )
            signed = await obstore.sign_async(self._store, "GET", key, URL_LIFETIME)
            self.source = f" {signed.partition('?')[0].removesuffix(key)}"
            await obstore.put_async(self._store, key, b"")
            await obstore.get_async(self._store, key)
            await obstore.delete_async(self._store, key)
        except (BaseError, OSError, ValueError) as error:
            raise StartFault(f"{self.url} at {endpoint or 'AWS'} cannot be used: {_reason(error)}; {ADVICE}") from error

    async def put(self, file: File, part: Part) -> None:
        headers: Any = {**file.headers, **NO_STORE}
        try:
            with _faults():
                await obstore.put_async(self._store, file.id, part.path, attributes=headers)
        finally:
            part.discard()
        self._stored.append(file.id)

    async def exists(self, file: File) -> bool:
        if file.id in self._stored:
            return True
        with _faults():
            try:
                await obstore.head_async(self._store, file.id)
            except FileNotFoundError:
                return False
        return True

    async def read(self, file: File) -> bytes | None:
        with _faults():
            try:
                result = await obstore.get_async(self._store, file.id)
            except FileNotFoundError:
                return None
            return bytes(await result.bytes_async())

    async def location(self, file: File, method: str) -> str:
        with _faults():
            return await obstore.sign_async(self._store, "HEAD" if method == "HEAD" else "GET", file.id, URL_LIFETIME)

    @contextlib.asynccontextmanager
    async def deletion(self, files: Sequence[File]) -> AsyncIterator[None]:
        with _faults():
            await obstore.delete_async(self._store, [file.id for file in files])
        yield


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Raise Problem 503 for faults of the bucket."""
    try:
        yield
    except (BaseError, OSError) as error:
        LOG.warning("the bucket: %s", _reason(error))  # logged only, as it names hosts
        raise unavailable("The files cannot be used now") from error


def _reason(error: Exception) -> str:
    """Return one line of an error, which has an XML answer of S3, or the causes as Rust prints them."""
    text = str(error)
    if "/latest/api/token" in text:  # obstore asks the host last, at an address that exists only within AWS
        return "there are no credentials in the environment"
    code = re.search(r"<Code>(.*?)</Code>(?:\s*<Message>(.*?)</Message>)?", text, re.DOTALL)
    if code:
        return ": ".join(filter(None, code.groups()))
    causes = re.findall(r'(?:message|error): "([^"]+)"', text)
    return " ".join([text.partition("\n")[0].rpartition(" - ")[2], *causes[-1:]])
