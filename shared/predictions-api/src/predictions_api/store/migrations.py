"""Create or upgrade the tables of a database, whose schema has a version.

Version 1 is that of the first commit, and each of STEPS leads to the next one. Servers of the release before work on
while a newer one upgrades, so a step only adds: tables, indexes, and columns that have a default or may be NULL.

The steps are few, and each is SQL that SQLite and PostgreSQL share. Alembic would need its own files and its own lock.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import Final

import sqlalchemy as sa

from predictions_api.errors import StartFault

LOG = logging.getLogger("predictions_api.migrations")
STEPS: Final[tuple[tuple[str, ...], ...]] = (
    (  # to version 2, the last one that was not recorded
        "ALTER TABLE predictions ADD COLUMN streams_files BOOLEAN DEFAULT false NOT NULL",
        "CREATE INDEX runs ON predictions (model)",
    ),
)
VERSIONS: Final = sa.Table("schema_versions", sa.MetaData(), sa.Column("version", sa.Integer, primary_key=True))
_RECORDED: Final = sa.select(sa.func.max(VERSIONS.c.version))


def migrate(connection: sa.Connection, tables: sa.MetaData) -> None:
    """Create `tables`, or upgrade those of an older server. Raises StartFault for those of a newer server.

    The transaction of `connection` writes alone: in SQLite it began as BEGIN IMMEDIATE, in PostgreSQL it gets a lock.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7281340411)"))
    newest = len(STEPS) + 1
    version = _version(connection)
    if version > newest:
        raise StartFault(
            f"the database has version {version} of the tables, and this server knows versions up to {newest}; "
            "upgrade the server, or restore a backup from before the upgrade of the database"
        )
    if version == 0:
        tables.create_all(connection)
    elif version < newest:
        LOG.info("upgrading the tables of the database from version %d to %d", version, newest)
        for statement in chain.from_iterable(STEPS[version - 1 :]):
            connection.execute(sa.text(statement))
    VERSIONS.create(connection, checkfirst=True)
    if connection.scalar(_RECORDED) != newest:
        connection.execute(sa.insert(VERSIONS).values(version=newest))


def _version(connection: sa.Connection) -> int:
    """Return the version of the tables, or 0 if there are none. Old tables do not record it, but have other columns."""
    inspector = sa.inspect(connection)
    if inspector.has_table(VERSIONS.name):
        return int(connection.execute(_RECORDED).scalar_one())
    if not inspector.has_table("predictions"):
        return 0
    return 2 if "streams_files" in {column["name"] for column in inspector.get_columns("predictions")} else 1
