"""The routes of files. Uploads need a token, downloads only the URL: access.py."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlencode

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from predictions_api.errors import Problem, unavailable
from predictions_api.http.form_metadata import MAX_PARTS, MAX_SIZE, read_metadata
from predictions_api.http.requests import base_url, service_of, with_limit
from predictions_api.run.representation import rfc3339
from predictions_api.store.data_uris import DEFAULT_TYPE, media_type
from predictions_api.store.paging import PAGE_SIZE, Cursor, page_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.datastructures import FormData

    from predictions_api.store.files import Files
    from predictions_api.store.stored_file import File

OWNER: Final = "local"  # the only account
UPLOAD_LIMIT: Final = 100 * 2**20  # 100 MiB by the JavaScript client's README; "100MB" in Replicate's error
STALL_TIMEOUT: Final = 30.0  # seconds without a byte
UPLOAD_TIMEOUT: Final = 3600.0
FORM_OVERHEAD: Final = 2**20  # bytes of a request besides the file
REDIRECT_AGE: Final = 300  # seconds; a URL of temporary credentials may be valid for no longer
# replicate 1.x for Python; 2.x, the JavaScript client, Cog and browsers follow redirects.
CLIENTS_WITHOUT_REDIRECTS: Final = re.compile("replicate-python/")

FORM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["content"],
    "properties": {
        "content": {"type": "string", "format": "binary"},
        "filename": {"type": "string", "maxLength": 255},
        "type": {"type": "string", "default": DEFAULT_TYPE},
        "metadata": {"type": "object", "default": {}},
    },
}

router = APIRouter(tags=["files"])


@router.post(
    "/files",
    status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM_SCHEMA}}}},
)
async def create_file(request: Request) -> JSONResponse:
    """Store a file, sent as multipart/form-data with `content` and optional `filename`, `type` and `metadata`."""
    async with _read_form(request) as form:
        content = form.get("content")
        if not isinstance(content, UploadFile):
            raise Problem(400, "The part content is missing or has no filename; send the file as content")
        metadata = read_metadata(await _part(form, "metadata"), _fields(form))
        if (content.size or 0) > UPLOAD_LIMIT:
            raise _too_large_problem()
        file = await _files(request).upload(
            content.file,
            name=await _part_text(form, "filename") or content.filename or "",
            content_type=media_type(await _part_text(form, "type") or content.content_type),
            metadata=metadata,
        )
    return JSONResponse(await _file_body(request, file), 201)


@router.get("/files")
async def list_files(
    request: Request, cursor: Annotated[str | None, Query(description="Position in the list, as in `next`")] = None
) -> JSONResponse:
    """List uploads, newest first, 100 a page."""
    position = None if cursor is None else Cursor.parse(cursor)
    files = await _files(request).list_uploads(size=PAGE_SIZE + 1, cursor=position)
    next_url = None
    if len(files) > PAGE_SIZE:
        last = files[PAGE_SIZE - 1]
        next_url = page_url(base_url(request), "/files", Cursor(last.created_at, last.id), {})
    results = [await _file_body(request, file) for file in files[:PAGE_SIZE]]
    return JSONResponse({"previous": None, "next": next_url, "results": results})


@router.get("/files/{file_id}")
async def get_file(request: Request, file_id: str) -> JSONResponse:
    """Return the description of an upload."""
    return JSONResponse(await _file_body(request, await _upload(request, file_id)))


@router.delete("/files/{file_id}", status_code=204)
async def delete_file(request: Request, file_id: str) -> Response:
    """Delete an upload."""
    if not await _files(request).delete_upload(file_id):
        raise _file_not_found()
    return Response(status_code=204)


@router.get("/files/{file_id}/download")
async def download_file(
    request: Request,
    file_id: str,
    owner: Annotated[str, Query(max_length=256)],
    expiry: Annotated[int, Query(ge=0, lt=2**63)],
    signature: Annotated[str, Query(max_length=256)],
) -> Response:
    """Return the bytes of an upload. The signed URL is `urls.download` of the file."""
    expected = await _signature(request, owner, file_id, expiry)
    if not hmac.compare_digest(signature.encode(), expected.encode()) or owner != OWNER or expiry < time.time():
        raise _file_not_found()
    return await _file_response(request, await _upload(request, file_id))


@router.get("/delivery/{file_id}/{name}")
async def deliver(request: Request, file_id: str, name: str) -> Response:
    """Return the bytes of a file. `name` is ignored; it gives the URL a readable name and an extension."""
    file = await _files(request).get(file_id)
    if file is None:
        raise _file_not_found()
    return await _file_response(request, file)


async def _file_response(request: Request, file: File) -> Response:
    """Return the bytes, or a redirect to the bucket that has them."""
    files = _files(request)
    location = await files.content.location(file, request.method)
    headers = {
        **file.headers,
        "etag": f'"{file.sha256}"',
        "cache-control": f"public, max-age={min(3600, int(files.retention))}, immutable",
        "x-content-type-options": "nosniff",
        **({} if file.is_inline else {"content-security-policy": "default-src 'none'; sandbox"}),
    }
    if isinstance(location, str) and not CLIENTS_WITHOUT_REDIRECTS.match(request.headers.get("user-agent", "")):
        age = min(REDIRECT_AGE, int(files.retention))
        return RedirectResponse(location, headers={"cache-control": f"public, max-age={age}"})
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if isinstance(location, str):
        content = await files.content.read(file)
        if content is None:
            raise _file_not_found()
        return Response(content, headers=headers)
    try:
        stat = await anyio.to_thread.run_sync(os.stat, location)
    except FileNotFoundError:
        raise _file_not_found() from None
    return FileResponse(location, headers=headers, stat_result=stat)


@asynccontextmanager
async def _read_form(request: Request) -> AsyncIterator[FormData]:
    """Read the parts, and files to a temporary file. Raises Problem 413 as soon as the body is too large."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Problem(415, "Send the file as multipart/form-data, in a part named content")
    limit = UPLOAD_LIMIT + FORM_OVERHEAD
    limited = with_limit(request, limit, _too_large_problem(), stall_timeout=STALL_TIMEOUT)
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT):
            form = await limited.form(max_files=4, max_fields=4 + MAX_PARTS, max_part_size=MAX_SIZE)
    except TimeoutError:
        raise Problem(408, f"The upload stalled for {STALL_TIMEOUT:g} seconds, or took over an hour") from None
    except HTTPException as error:
        raise Problem(400, f"The multipart body cannot be read: {error.detail}") from error
    except OSError as error:
        raise unavailable(f"The file cannot be stored now: {error.strerror}") from error
    try:
        yield form
    finally:
        await form.close()


async def _part(form: FormData, name: str) -> bytes:
    """Return a part. The JavaScript client sends `metadata` as a file, the Python client as a field."""
    part = form.get(name, "")
    # A field may have a half surrogate if its request names the encoding utf-7.
    return part.encode(errors="replace") if isinstance(part, str) else await part.read(MAX_SIZE)


async def _part_text(form: FormData, name: str) -> str:
    return (await _part(form, name)).decode(errors="replace")


def _fields(form: FormData) -> list[tuple[str, str]]:
    """Return the names and values of the parts that are not files, without half surrogates."""
    texts = [(name, part) for name, part in form.multi_items() if isinstance(part, str)]
    return [(_without_surrogates(name), _without_surrogates(text)) for name, text in texts]


def _without_surrogates(text: str) -> str:
    return text.encode(errors="replace").decode()


async def _file_body(request: Request, file: File) -> dict[str, Any]:
    """Return schemas_file_response of Replicate's OpenAPI document, with what the Python client needs besides."""
    expiry = file.expires_at // 1_000_000
    signed_query = {"owner": OWNER, "expiry": expiry, "signature": await _signature(request, OWNER, file.id, expiry)}
    url = f"{base_url(request)}/v1/files/{file.id}"
    return {
        "id": file.id,
        "name": file.name,
        "content_type": file.content_type,
        "size": file.size,
        "etag": file.md5,
        "checksums": {"sha256": file.sha256, "md5": file.md5},
        "metadata": file.metadata,
        "created_at": rfc3339(file.created_at),
        "expires_at": rfc3339(file.expires_at),
        "urls": {"get": url, "download": f"{url}/download?{urlencode(signed_query)}"},
    }


async def _signature(request: Request, owner: str, file_id: str, expiry: int) -> str:
    """Return base64 of HMAC-SHA256 over "{owner} {id} {expiry}" (Replicate's OpenAPI document, files.download)."""
    key = await _files(request).signing_key()
    return base64.b64encode(hmac.digest(key.encode(), f"{owner} {file_id} {expiry}".encode(), hashlib.sha256)).decode()


async def _upload(request: Request, file_id: str) -> File:
    file = await _files(request).get(file_id)
    if file is None or file.kind != "upload":
        raise _file_not_found()
    return file


def _files(request: Request) -> Files:
    return service_of(request).files


def _file_not_found() -> Problem:
    return Problem(404, "File not found")


def _too_large_problem() -> Problem:
    """Return the 413 of `files.create` in Replicate's OpenAPI document."""
    return Problem(413, "Files must be less than 100MB in size")
