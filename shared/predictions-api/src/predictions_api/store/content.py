"""The bytes of files: the interface that `Files` uses, and the directory, which stores them by their SHA-256.

Equal files share one path, and a path never holds an incomplete file. Several servers may share the directory, on a
network file system whose rename is atomic. A row of the table of files is written before its content is renamed into
place. Content is moved aside before its rows are deleted, so that a crash leaves none without a row. The table is
checked again before the content is deleted, so that a file stored meanwhile is not lost. bucket.py has the other
implementation.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import sqlalchemy as sa

from predictions_api.errors import Problem, unavailable
from predictions_api.store.database import files as table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from predictions_api.store.database import Database
    from predictions_api.store.stored_file import File

CHUNK = 1 << 20
ABANDONED_AFTER = 3600.0  # seconds; an older temporary file was left by a server that crashed


@dataclass(frozen=True)
class Part:
    """Content in a temporary file of this server, which `put` moves to where it is stored."""

    path: Path
    sha256: str
    md5: str
    size: int

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


class PartWriter:
    """Writes a part. All methods block."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()  # a canceled caller discards the part while a thread still writes
        self._is_discarded = False

    def write(self, chunk: bytes) -> None:
        """Append bytes. Raises Problem 503 for a full disk."""
        self.size += len(chunk)
        self._sha256.update(chunk)
        self._md5.update(chunk)
        try:
            with self._lock:
                if not self._is_discarded:
                    self._open().write(chunk)
        except OSError as error:
            raise unavailable(f"The file cannot be stored now: {error.strerror}") from error

    def finish(self) -> Part:
        """Return the part. Raises Problem 503 for a full disk."""
        try:
            self._open().close()
        except OSError as error:
            raise unavailable(f"The file cannot be stored now: {error.strerror}") from error
        return Part(self._path, self._sha256.hexdigest(), self._md5.hexdigest(), self.size)

    def discard(self) -> None:
        with self._lock:
            self._is_discarded = True
            with contextlib.suppress(OSError):
                if self._file is not None:
                    self._file.close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        return self._file


class Content(ABC):
    """Where the content of files is stored. Parts are in a directory of this server, or of all servers."""

    source = ""  # for a Content-Security-Policy: where web pages may load files from, besides this server

    def __init__(self, root: Path) -> None:
        self.root = root
        self._directory = root / "aside"  # of temporary files

    async def open(self) -> None:
        """Make what is missing. Raises StartFault or OSError if content cannot be stored."""
        await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)

    @abstractmethod
    async def put(self, file: File, part: Part) -> None:
        """Store a part as the content of a file, whose row is written. Raises Problem 503 if that fails now."""

    @abstractmethod
    async def exists(self, file: File) -> bool: ...

    @abstractmethod
    async def read(self, file: File) -> bytes | None:
        """Return the content, or None if it is missing."""

    @abstractmethod
    async def location(self, file: File, method: str) -> Path | str:
        """Return the path of the content, or a URL that answers `method`, GET or HEAD, for an hour."""

    @abstractmethod
    def deletion(self, files: Sequence[File]) -> AbstractAsyncContextManager[None]:
        """Delete the content of files around the deletion of their rows, unless other rows have it, too."""

    async def sweep(self) -> None:
        """Delete what crashed servers left."""
        for path, _ in await asyncio.to_thread(self.list_abandoned):
            await asyncio.to_thread(path.unlink, missing_ok=True)

    def write(self, source: BinaryIO) -> Part:
        """Write `source` to a part. Raises Problem 503 for a full disk. Blocks, like `list_abandoned`."""
        writer = self.create_part()
        try:
            while chunk := source.read(CHUNK):
                writer.write(chunk)
            return writer.finish()
        except BaseException:
            writer.discard()
            raise

    def create_part(self) -> PartWriter:
        """Return the writer of a new part."""
        return PartWriter(self._temporary_path("part"))

    def list_abandoned(self) -> list[tuple[Path, str | None]]:
        """Return (path, SHA-256) of temporary files that crashed servers left. The hash is None for parts."""
        abandoned: list[tuple[Path, str | None]] = []
        for path in self._directory.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another server may remove it at the same time
                if time.time() - path.stat().st_ctime > ABANDONED_AFTER:  # st_ctime: last write or rename
                    name = path.name.partition(".")[0]
                    abandoned.append((path, None if name == "part" else name))
        return abandoned

    def _temporary_path(self, name: str) -> Path:
        return self._directory / f"{name}.{os.getpid()}.{secrets.token_hex(8)}"


class ContentStore(Content):
    """The content below one directory. Methods that are not coroutines block, so call them in a thread."""

    def __init__(self, root: Path, database: Database) -> None:
        super().__init__(root)
        self._database = database

    async def put(self, file: File, part: Part) -> None:
        await asyncio.to_thread(self.commit, part)

    async def exists(self, file: File) -> bool:
        return await asyncio.to_thread(self.path(file.sha256).is_file)

    async def read(self, file: File) -> bytes | None:
        try:
            return await asyncio.to_thread(self.path(file.sha256).read_bytes)
        except FileNotFoundError:
            return None

    async def location(self, file: File, method: str) -> Path:
        return self.path(file.sha256)

    @contextlib.asynccontextmanager
    async def deletion(self, files: Sequence[File]) -> AsyncIterator[None]:
        ids, moved = [file.id for file in files], {}
        for sha256 in {file.sha256 for file in files}:
            if not await self._is_referenced(sha256, besides=ids):
                aside = await asyncio.to_thread(self.put_aside, sha256)
                if aside is not None:
                    moved[aside] = sha256
        try:
            yield
        except Problem:  # the rows stay
            for aside, sha256 in moved.items():
                await asyncio.to_thread(self.put_back, aside, sha256)
            raise
        for aside, sha256 in moved.items():
            await self._restore_or_delete(aside, sha256)

    async def sweep(self) -> None:
        for path, sha256 in await asyncio.to_thread(self.list_abandoned):
            await self._restore_or_delete(path, sha256)

    async def _restore_or_delete(self, aside: Path, sha256: str | None) -> None:
        if sha256 is not None and await self._is_referenced(sha256):
            await asyncio.to_thread(self.put_back, aside, sha256)
        else:
            await asyncio.to_thread(aside.unlink, missing_ok=True)

    async def _is_referenced(self, sha256: str, *, besides: Sequence[str] = ()) -> bool:
        """Return whether a row of the table of files has this content, besides those with some ids."""
        query = sa.select(table.c.id).where(table.c.sha256 == sha256, table.c.id.not_in(besides)).limit(1)
        return bool(await self._database.rows(query))

    def path(self, sha256: str) -> Path:
        """Return the path for content with this hash, stored or not."""
        return self.root / sha256[:2] / sha256

    def commit(self, part: Part) -> None:
        """Move a part to the path of its content. Equal content is overwritten."""
        path = self.path(part.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        part.path.replace(path)

    def put_aside(self, sha256: str) -> Path | None:
        """Move content to a temporary path and return that path, or None if the content is missing."""
        aside = self._temporary_path(sha256)
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.path(sha256).rename(aside)
        except FileNotFoundError:
            return None
        return aside

    def put_back(self, aside: Path, sha256: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            aside.replace(self.path(sha256))
