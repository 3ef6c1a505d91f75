"""Fetch the files of http(s) inputs, so that a Cog server never waits for a slow host and never reaches a private one.

Cog itself sets no limit on time or size, and reads from every address that its machine reaches.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus, urlsplit

import httpx

from predictions_api.errors import Problem
from predictions_api.run.addresses import CheckedTransport
from predictions_api.store.content import CHUNK
from predictions_api.store.data_uris import media_type
from predictions_api.store.file_urls import safe_name

if TYPE_CHECKING:
    from predictions_api.run.addresses import AddressRules
    from predictions_api.store.content import Content, Part

MAX_FETCHES: Final = 64  # at the same time in this process
MAX_REDIRECTS: Final = 10
HEADERS: Final = {"user-agent": "predictions-api", "accept-encoding": "identity"}


class FetchError(Exception):
    """A file cannot be fetched. The text is fit to be part of the error of a prediction."""


@dataclass(frozen=True)
class FetchedFile:
    """A file on disk, with the name that Cog would give it: the last part of its URL's path."""

    part: Part
    name: str
    content_type: str


class Fetcher:
    """Fetches files within limits: `seconds` for each, `limit` in bytes, and the addresses that `rules` allow."""

    def __init__(self, content: Content, rules: AddressRules, *, limit: int, seconds: float) -> None:
        self._content = content
        self._limit = limit
        self._seconds = seconds
        self._http = httpx.AsyncClient(transport=CheckedTransport(rules), timeout=seconds)
        self._slots = asyncio.Semaphore(MAX_FETCHES)
        self.allowed = f"a file has at most {limit} bytes and arrives within {seconds:g} s"

    async def close(self) -> None:
        await self._http.aclose()

    async def fetch(self, url: str) -> FetchedFile:
        """Return the file at a URL. Raises FetchError."""
        async with self._slots:
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._follow(url)
            except TimeoutError:
                raise FetchError(f"it did not arrive within {self._seconds:g} s") from None
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                raise FetchError(str(error).rstrip(".") or type(error).__name__) from error

    async def _follow(self, url: str) -> FetchedFile:
        request = self._http.build_request("GET", url, headers=HEADERS)
        for _ in range(MAX_REDIRECTS + 1):
            # httpx itself would read the whole body of a redirect.
            answer = await self._http.send(request, stream=True)
            try:
                if answer.next_request is None:
                    return await self._save(url, answer)
                request = answer.next_request
            finally:
                await answer.aclose()
        raise FetchError(f"there are more than {MAX_REDIRECTS} redirects")

    async def _save(self, url: str, answer: httpx.Response) -> FetchedFile:
        if answer.status_code != httpx.codes.OK:
            raise FetchError(f"{answer.url.host} answered {answer.status_code}")
        encoding = answer.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise FetchError(f"{answer.url.host} compressed it ({encoding[:40]}), although the request excludes that")
        too_large = FetchError(f"it has more than {self._limit} bytes")
        if int(answer.headers.get("content-length", 0)) > self._limit:
            raise too_large
        writer = self._content.create_part()
        try:
            async for chunk in answer.aiter_raw(CHUNK):
                if writer.size + len(chunk) > self._limit:
                    raise too_large
                await asyncio.to_thread(writer.write, chunk)
            part = await asyncio.to_thread(writer.finish)
        except BaseException as error:
            await asyncio.shield(asyncio.to_thread(writer.discard))
            if isinstance(error, Problem):  # the disk is full
                raise FetchError(error.detail) from error
            raise
        name = safe_name(unquote_plus(urlsplit(url).path))
        return FetchedFile(part, name, media_type(answer.headers.get("content-type")))


def shown_url(url: str) -> str:
    """Return a URL for an error: without the user, password and query, which may be credentials."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]
    return "the URL"
