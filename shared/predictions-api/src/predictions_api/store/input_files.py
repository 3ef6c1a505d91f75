"""The files in the inputs of predictions: data: URIs, uploads, and files that were fetched from other hosts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from predictions_api.errors import Problem, invalid_fields
from predictions_api.store.data_uris import InvalidDataUri, decode_data_uri
from predictions_api.store.database import files as table
from predictions_api.store.file_urls import is_data_uri, own_file, replace_strings, strings_in
from predictions_api.store.files import is_retained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from predictions_api.store.content import Part
    from predictions_api.store.files import Files

LARGE_INPUT: Final = 256_000  # characters of all files of an input, as data: URIs


@dataclass(frozen=True)
class InputFiles:
    """The files of inputs. cog_base: base URL of this server as seen from Cog servers."""

    files: Files
    cog_base: str

    async def store_inputs(self, prediction_id: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """Replace data: URIs in the inputs that are files as `store_output` does, if they are long together.

        The row is read often. Raises Problem 422 that names the inputs with invalid data: URIs.
        """
        contents = await asyncio.to_thread(_decode_all, inputs)
        if sum(map(len, strings_in(inputs))) < LARGE_INPUT:
            return inputs
        paths = {
            text: (await self.files.store_content(prediction_id, "input", *content)).path
            for text, content in contents.items()
        }
        replaced: dict[str, Any] = replace_strings(inputs, paths)
        return replaced

    async def own_urls(self, value: Any) -> dict[str, str]:
        """Return the URLs of this server's files in a prediction's input, with the URLs that Cog servers can download.

        Files are recognized by path and id, whatever the host in the URL. Raises Problem 422 for an upload that has
        expired or was deleted.
        """
        replacements: dict[str, str] = {}
        for text in strings_in(value):
            reference = own_file(text)
            if reference is None:
                continue
            file = await self.files.get(reference.id)
            if file is not None:
                replacements[text] = self.cog_base + file.path
            elif reference.is_upload:
                raise Problem(
                    422, f"The file {text} has expired or was deleted; upload it again", title="Input validation failed"
                )
        return replacements

    async def add(self, prediction_id: str, url: str, part: Part, name: str, content_type: str) -> str:
        """Store a file that was fetched from `url` for a prediction, until its end. Return its URL for Cog servers."""
        metadata = {"url": url}
        file = await self.files.add("input", part, name, content_type, prediction_id=prediction_id, metadata=metadata)
        return self.cog_base + file.path

    async def fetched_urls(self, prediction_id: str) -> dict[str, str]:
        """Return the URL for Cog servers of each URL that was fetched for a prediction."""
        rows = await self.files.rows(
            sa.select(table).where(table.c.prediction_id == prediction_id, table.c.kind == "input", is_retained())
        )
        return {row.metadata["url"]: self.cog_base + row.path for row in rows if await self.files.content.exists(row)}


def _decode_all(inputs: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
    """Return the media type and content of each data: URI. Raises Problem 422 that names the inputs."""
    contents: dict[str, tuple[str, bytes]] = {}
    faults: dict[str, str] = {}
    for name, value in inputs.items():
        for text in filter(is_data_uri, strings_in(value)):
            try:
                contents[text] = decode_data_uri(text)
            except InvalidDataUri as error:
                faults[f"input.{name}"] = str(error)
    if faults:
        raise invalid_fields([{"type": "format", "field": name, "description": faults[name]} for name in faults])
    return contents
