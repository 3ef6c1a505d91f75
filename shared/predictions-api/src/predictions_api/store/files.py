"""Files uploaded by clients and produced by models: rows in a table, bytes in a Content."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import io
import logging
import mimetypes
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import sqlalchemy as sa

from predictions_api.errors import Problem
from predictions_api.store.content import ContentStore
from predictions_api.store.data_uris import InvalidDataUri, decode_data_uri, encode_data_uri
from predictions_api.store.database import files as table
from predictions_api.store.database import get_or_create_secret, now, predictions, random_key
from predictions_api.store.file_urls import (
    DELIVERY_PATH,
    is_data_uri,
    map_strings,
    safe_name,
    strings_in,
)
from predictions_api.store.predictions import END_STATUSES
from predictions_api.store.stored_file import File

if TYPE_CHECKING:
    from collections.abc import Collection

    from predictions_api.settings import Settings
    from predictions_api.store.content import Content, Part
    from predictions_api.store.database import Database
    from predictions_api.store.paging import Cursor

LOG = logging.getLogger("predictions_api.files")
INLINE_LIMIT: Final = 10_000_000  # MAX_DATA_URI_SIZE of the JavaScript client
UPLOAD_RETENTION: Final = 24 * 3600.0  # seconds; as in the official Python client's recording, file-operations.yaml
BATCH: Final = 1000


class Files:
    """The files of a database and their content. retention: seconds that outputs are kept."""

    def __init__(self, database: Database, content: Content, *, retention: float) -> None:
        self.database = database
        self.content = content
        self.retention = retention
        self._signing_key = ""

    async def upload(self, source: BinaryIO, *, name: str, content_type: str, metadata: dict[str, Any]) -> File:
        """Store an upload. Raises Problem 503 if it cannot be stored now."""
        part = await asyncio.to_thread(self.content.write, source)
        return await self.add("upload", part, safe_name(name), content_type, metadata=metadata)

    async def signing_key(self) -> str:
        """Return the secret that signs download URLs, the same for all servers of a database."""
        self._signing_key = self._signing_key or await get_or_create_secret(self.database, "files", random_key)
        return self._signing_key

    async def store_output(self, prediction_id: str, output: Any, files: Collection[str] | None = None) -> Any:
        """Return `output` with each data: URI stored as a file and replaced by the file's path.

        `files`: the strings that are files; None for all. The same content gives the same path. Cog repeats the whole
        output with each step, so most of it may be stored already.
        """
        stored: dict[str, str] = {}
        for text in filter(is_data_uri, strings_in(output)):
            if text not in stored and (files is None or text in files):
                with contextlib.suppress(InvalidDataUri):
                    decoded = await asyncio.to_thread(decode_data_uri, text)
                    stored[text] = (await self.store_content(prediction_id, "output", *decoded)).path
        return map_strings(output, lambda text: stored.get(text, text))

    async def store_content(self, prediction_id: str, name: str, content_type: str, content: bytes) -> File:
        sha256 = (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
        rows = await self.rows(
            sa.select(table)
            .where(table.c.prediction_id == prediction_id, table.c.sha256 == sha256)
            .where(table.c.content_type == content_type, table.c.kind == "output")
            .order_by(table.c.created_at.desc())
        )
        # The newest row has no content if the disk was full or the server crashed.
        if rows and await self.content.exists(rows[0]):
            return rows[0]
        part = await asyncio.to_thread(self.content.write, io.BytesIO(content))
        name += mimetypes.guess_extension(content_type.partition(";")[0]) or ""
        return await self.add("output", part, name, content_type, prediction_id=prediction_id)

    async def add(
        self,
        kind: str,
        part: Part,
        name: str,
        content_type: str,
        *,
        prediction_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> File:
        """Store a part as a file of this kind: upload, output or input."""
        moment, retention = now(), UPLOAD_RETENTION if kind == "upload" else self.retention
        file = File(
            id=random_key(),
            sha256=part.sha256,
            md5=part.md5,
            name=name,
            content_type=content_type,
            size=part.size,
            metadata=metadata or {},
            kind=kind,
            prediction_id=prediction_id,
            created_at=moment,
            expires_at=moment + int(retention * 1e6),
        )
        try:
            await self.database.run(lambda connection: connection.execute(sa.insert(table), dataclasses.asdict(file)))
            try:
                await self.content.put(file, part)  # after the row, see content.py and bucket.py
            except BaseException:
                await asyncio.shield(self._expire(file))
                raise
        except BaseException:
            part.discard()
            raise
        LOG.info("files: stored %s %s, %d bytes of %s", kind, prediction_id or "", file.size, content_type)
        return file

    async def _expire(self, file: File) -> None:
        """Let the next sweep remove a file whose content may not be stored."""
        change = sa.update(table).where(table.c.id == file.id).values(expires_at=0)
        with contextlib.suppress(Problem):  # the database is unavailable
            await self.database.run(lambda connection: connection.execute(change))

    async def get(self, file_id: str) -> File | None:
        return next(iter(await self.rows(sa.select(table).where(table.c.id == file_id, is_retained()))), None)

    async def list_uploads(self, *, size: int, cursor: Cursor | None = None) -> list[File]:
        query = sa.select(table).where(table.c.kind == "upload", is_retained())
        if cursor is not None:
            query = query.where(cursor.condition(table))
        return await self.rows(query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(size))

    async def delete_upload(self, file_id: str) -> bool:
        chosen = sa.select(table).where(table.c.id == file_id, table.c.kind == "upload", is_retained())
        return await self._delete(chosen) > 0

    async def inline(self, output: Any) -> Any:
        """Return an output with its files as data: URIs. Unchanged if the files exceed 10 MB together."""
        files = [
            await self.get(match[1]) for text in set(strings_in(output)) if (match := DELIVERY_PATH.fullmatch(text))
        ]
        present = [file for file in files if file is not None]
        if sum(file.size for file in present) > INLINE_LIMIT:
            return output
        uris: dict[str, str] = {}
        for file in present:
            content = None
            with contextlib.suppress(Problem):  # the bucket is unavailable
                content = await self.content.read(file)
            if content is None:  # or it was removed meanwhile
                return output
            uris[file.path] = await asyncio.to_thread(encode_data_uri, file.content_type, content)
        return map_strings(output, lambda text: uris.get(text, text))

    async def sweep(self) -> None:
        """Delete expired files and abandoned content."""
        expired = sa.select(table).where(~is_retained()).limit(BATCH)
        while await self._delete(expired):
            pass
        await self.content.sweep()

    async def _delete(self, chosen: sa.Select[Any]) -> int:
        """Delete files and return their number."""
        files = await self.rows(chosen)
        if not files:
            return 0
        change = sa.delete(table).where(table.c.id.in_([file.id for file in files]))
        async with self.content.deletion(files):
            return await self.database.run(lambda connection: connection.execute(change).rowcount)

    async def rows(self, query: sa.Select[Any]) -> list[File]:
        return [File(**row._mapping) for row in await self.database.rows(query)]


def create_content(settings: Settings, database: Database) -> Content:
    """Return where the content of a server's files is stored."""
    if not settings.bucket:
        return ContentStore(settings.files, database)
    from predictions_api.store.bucket import Bucket  # its library takes 90 ms to import

    return Bucket(settings.bucket, settings.files)


def is_retained() -> sa.ColumnElement[bool]:
    of_prediction = predictions.c.id == table.c.prediction_id
    is_needed = sa.exists().where(of_prediction, predictions.c.status.not_in(END_STATUSES))
    with_data = sa.exists().where(of_prediction, predictions.c.data_removed.is_(False))
    is_input = table.c.kind == "input"
    return sa.or_(sa.and_(is_input, is_needed), sa.and_(~is_input, sa.or_(table.c.expires_at > now(), with_data)))
