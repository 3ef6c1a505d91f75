"""The models of this server and their versions.

All versions of a model run on the same Cog servers. The first id is computed from the model's content. Further ids are
those under which the model is documented elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from predictions_api.errors import Problem, not_found, unavailable
from predictions_api.run.cog_client import MAX_SCHEMA_VALUES, CogError
from predictions_api.run.examples import Examples
from predictions_api.strict_json import parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from predictions_api.run.workers import Workers
    from predictions_api.settings import ModelSettings

LOG = logging.getLogger("predictions_api.catalogue")


@dataclass(frozen=True)
class Version:
    """One version of a model."""

    id: str
    model: str  # owner/name
    created_at: int  # microseconds since 1970, UTC
    cog_version: str
    openapi_schema: dict[str, Any]

    @property
    def streams(self) -> bool:
        return self._output.get("x-cog-array-type") == "iterator"

    @property
    def streams_files(self) -> bool:
        """Return whether each event of a stream is a file: the output is a file or a list of files."""
        return is_file(self._output)

    @property
    def file_inputs(self) -> set[str]:
        """Return the names of the inputs that are files or lists of files."""
        declared: dict[str, Any] = self.openapi_schema["components"]["schemas"]["Input"].get("properties", {})
        return {name for name, schema in declared.items() if is_file(schema)}

    def files_in(self, output: Any) -> set[str]:
        """Return the strings in an output that are files by its schema. Other texts may look like files."""
        return set(_files(output, self._output, self.openapi_schema["components"]["schemas"]))

    @property
    def _output(self) -> dict[str, Any]:
        output: dict[str, Any] = self.openapi_schema["components"]["schemas"]["Output"]
        return output


def is_file(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema is that of a file or of a list of files."""
    within = [*filter(None, [schema.get("items")]), *schema.get("anyOf", ()), *schema.get("allOf", ())]
    return schema.get("format") == "uri" or any(map(is_file, within))


def _files(value: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    for part in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
        yield from _files(value, part, schemas)
    if isinstance(value, str) and schema.get("format") == "uri":
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _files(item, schema.get("items") or {}, schemas)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _files(item, schema.get("properties", {}).get(name, {}), schemas)


class Catalogue:
    """The models by name and by version. A schema is read when it is first needed."""

    def __init__(self, models: Sequence[ModelSettings], workers: Mapping[str, Workers]) -> None:
        """`workers`: Cog servers by owner/name. They are asked for the schema if the settings name no file."""
        self.models = models
        self.examples = Examples(models)
        self._workers = workers
        self._by_name = {model.name: model for model in models}
        self._by_version = {version: model for model in reversed(models) for version in model.versions}
        self._descriptions: dict[str, tuple[dict[str, Any], str, int]] = {}
        self._locks = {model.name: asyncio.Lock() for model in models}

    def model(self, owner: str, name: str) -> ModelSettings:
        """Return a model. Raises Problem 404."""
        model = self._by_name.get(f"{owner}/{name}")
        if model is None:
            raise not_found()
        return model

    async def find(self, reference: str) -> Version:
        """Return the version for an id, for owner/name:id, or for owner/name (the newest version).

        Raises Problem 422 for anything else, as Replicate does, and 503 if the schema is not available now.
        """
        name, separator, version = reference.partition(":")
        if separator:
            model = self._by_name.get(name)
        else:
            model = self._by_name.get(reference) or self._by_version.get(reference)
            version = reference if reference in self._by_version else model.versions[0] if model else ""
        if model is None or version not in model.versions:
            raise Problem(
                422,
                "The specified version does not exist (or perhaps you don't have permission to use it?)",
                title="Invalid version or not permitted",
            )
        return await self.version(model, version)

    async def file_inputs(self, model_name: str) -> set[str]:
        """Return the names of the inputs of a model that are files or lists of files.

        Raises Problem 422 for a model that is not configured any more, and 503 if the schema is not available now.
        """
        model = self._by_name.get(model_name)
        if model is None:
            raise Problem(422, f"The model {model_name} is not served any more")
        return (await self.version(model, model.versions[0])).file_inputs

    async def version(self, model: ModelSettings, version_id: str) -> Version:
        """Return a version of a model. Raises Problem 404, and 503 if the schema is not available now."""
        if version_id not in model.versions:
            raise not_found()
        async with self._locks[model.name]:
            if model.name not in self._descriptions:
                self._descriptions[model.name] = await self._read(model)
        schema, cog_version, newest_at = self._descriptions[model.name]
        # Clients sort versions by time, so each is one second older than the previous one.
        created_at = newest_at - model.versions.index(version_id) * 1_000_000
        return Version(version_id, model.name, created_at, cog_version, schema)

    async def _read(self, model: ModelSettings) -> tuple[dict[str, Any], str, int]:
        """Return the schema, the version of Cog, and the time of the newest version."""
        try:
            if model.schema is None:
                schema, cog_version = await self._workers[model.name].describe()
                changed_at = time.time_ns() // 1000
            else:
                schema = parse(model.schema.read_bytes(), max_values=MAX_SCHEMA_VALUES)
                cog_version, changed_at = model.cog_version, model.schema.stat().st_mtime_ns // 1000
            schemas = schema["components"]["schemas"]
            if not isinstance(schemas["Input"], dict) or not isinstance(schemas["Output"], dict):
                raise TypeError("Input and Output are not objects")
        except CogError as error:
            raise unavailable(f"The model {model.name} is not available now: {error}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            LOG.error("the schema of %s cannot be used: %r", model.name, error)
            raise unavailable(f"The schema of {model.name} cannot be used; see the server's log") from error
        return schema, cog_version, changed_at
