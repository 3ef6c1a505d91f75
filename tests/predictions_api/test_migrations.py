"""The versions of the database: old ones are upgraded, newer ones are refused, in SQLite and in PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor as Threads
from itertools import chain
from pathlib import Path
from typing import Any

import postgres
import pytest
import sqlalchemy as sa
from api_in_process import ApiInProcess
from api_server import ApiServer, failed_start
from dbos._migration import get_dbos_migrations, sqlite_migrations
from predictions_api.errors import StartFault
from predictions_api.store import migrations
from predictions_api.store.database import Database, sqlite_url
from predictions_api.store.migrations import STEPS

FIRST_TABLES = (Path(__file__).parent / "first_tables.sql").read_text()
# The last tables without a recorded version
UNVERSIONED_TABLES = FIRST_TABLES + "".join(f"{statement};\n" for statement in STEPS[0])
NEWEST = len(STEPS) + 1
PREDICTION = "b4yw1gz1e5rm00cttcdbvkmp1r"  # in first_tables.sql, as what follows
UPLOAD = "7kh2m5n9p2q6r0s4t8v3w7xyc2m9y4q8v3k7x1n5b6z0d2f4g8h3"
CONTENT = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

NewDatabase = Callable[[str], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Return a function that makes a database with tables, given as SQL, and returns its URL."""

    def create(tables: str = "") -> str:
        if request.param == "sqlite":
            path = tmp_path / "data" / "predictions.sqlite"
            path.parent.mkdir(exist_ok=True)
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.executescript(tables)
            return sqlite_url(path).render_as_string()
        url = postgres.new_database(request.getfixturevalue("postgresql"))
        execute(url, tables or "SELECT")
        return url

    return create


def execute(url: str, statements: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in filter(str.strip, statements.split(";\n")):
            connection.exec_driver_sql(statement)
    engine.dispose()


def dump(url: str) -> str:
    """Return all tables, indexes and rows as text."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(sa.make_url(url).database or "")) as connection:
            return "\n".join(connection.iterdump())
    command = [postgres.program("pg_dump"), "--restrict-key=same", url.replace("+psycopg", "")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def upgrade(url: str) -> None:
    """Do what a server does first."""

    async def work() -> None:
        database = Database(url)
        try:
            await database.open()
        finally:
            await database.close()

    asyncio.run(work())


def versions(url: str) -> list[int]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = list(connection.scalars(sa.select(migrations.VERSIONS.c.version)))
    engine.dispose()
    return found


def test_predictions_and_files_of_the_first_tables_are_read_through_the_api(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database(FIRST_TABLES)
    content = tmp_path / "data" / "files" / CONTENT[:2] / CONTENT
    content.parent.mkdir(parents=True)
    content.write_bytes(b"abc")
    with ApiInProcess(tmp_path / "data", database=url, keep=1e9) as api:
        old = api.http.get(f"/v1/predictions/{PREDICTION}").json()
        assert (old["input"], old["status"], old["created_at"]) == (
            {"text": "old"},
            "succeeded",
            "2026-11-22T02:20:00.000000Z",
        )
        assert api.anonymous_http.get(old["output"]).text == "abc"
        assert "event: done" in api.anonymous_http.get(old["urls"]["stream"]).text
        upload = api.http.get(f"/v1/files/{UPLOAD}").json()
        assert (upload["name"], upload["metadata"]) == ("notes.txt", {"a": 1})
        assert api.anonymous_http.get(upload["urls"]["download"]).text == "abc"
        assert api.http.get("/v1/webhooks/default/secret").json() == {"key": "whsec_b2xk"}
        new = api.add_prediction(streams_files=True)
        listed = api.http.get("/v1/predictions").json()["results"]
        assert {prediction["id"] for prediction in listed} == {PREDICTION, new.id}


@pytest.mark.parametrize("tables", [FIRST_TABLES, UNVERSIONED_TABLES], ids=["first", "unversioned"])
def test_an_upgraded_database_has_the_columns_and_indexes_of_a_new_one(new_database: NewDatabase, tables: str) -> None:
    def schema(url: str) -> dict[str, Any]:
        inspector = sa.inspect(engine := sa.create_engine(url))
        found = {}
        for table in inspector.get_table_names():
            columns = {(item["name"], str(item["type"]), item["nullable"]) for item in inspector.get_columns(table)}
            indexes = {(item["name"], *item["column_names"]) for item in inspector.get_indexes(table)}
            found[table] = columns, indexes, inspector.get_pk_constraint(table)["constrained_columns"]
        engine.dispose()
        return found

    upgraded = new_database(tables)
    upgrade(upgraded)
    found = schema(upgraded)
    before = dump(upgraded)
    assert versions(upgraded) == [NEWEST]
    upgrade(upgraded)
    assert dump(upgraded) == before  # the second start changes nothing
    if upgraded.startswith("sqlite"):
        Path(sa.make_url(upgraded).database or "").unlink()
    new = new_database("")
    upgrade(new)
    assert versions(new) == [NEWEST]
    expected = schema(new)
    # PostgreSQL's own type of `seen_at` is in first_tables.sql; SQLite uses no such column.
    assert {**found, "servers": expected["servers"]} == expected


def test_an_upgrade_that_fails_in_its_second_step_changes_nothing(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database(FIRST_TABLES)
    before = dump(url)
    fault = ("CREATE TABLE made (a INTEGER)", "ALTER TABLE missing ADD COLUMN a INTEGER")
    monkeypatch.setattr(migrations, "STEPS", (*STEPS, fault))
    with pytest.raises(StartFault, match=r"the database cannot be used: .*missing"):
        upgrade(url)
    assert dump(url) == before
    monkeypatch.setattr(migrations, "STEPS", (*STEPS, fault[:1]))
    upgrade(url)
    assert versions(url) == [NEWEST + 1]


def test_a_newer_database_is_refused_and_not_changed(new_database: NewDatabase, tmp_path: Path) -> None:
    url = new_database(UNVERSIONED_TABLES)
    upgrade(url)
    execute(url, f"INSERT INTO schema_versions VALUES ({NEWEST + 1})")
    before = dump(url)
    fault = (
        f"the database has version {NEWEST + 1} of the tables, and this server knows versions up to {NEWEST}; "
        "upgrade the server, or restore a backup from before the upgrade of the database"
    )
    with pytest.raises(StartFault, match=re.escape(fault)):
        upgrade(url)
    if url.startswith("sqlite"):
        assert failed_start(tmp_path) == (1, fault)
        assert not (tmp_path / "data" / "queue.sqlite").exists()
    assert dump(url) == before


def test_two_processes_that_start_at_once_upgrade_once(new_database: NewDatabase) -> None:
    url = new_database(FIRST_TABLES)
    script = """if True:
        import asyncio, sys
        from predictions_api.store.database import Database
        database = Database(sys.argv[1])
        database.engine.connect().close()
        print("ready", flush=True)
        input()
        asyncio.run(database.open())
    """
    command = [sys.executable, "-c", script, url]
    pipe = subprocess.PIPE
    processes = []
    for _ in range(2):  # one by one, as SQLite's change to a write-ahead log does not wait for another one
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        processes.append(process)
    with Threads() as threads:
        ends = [threads.submit(process.communicate, "\n") for process in processes]
        assert [end.result() for end in ends] == [("", "")] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert versions(url) == [NEWEST]


def test_servers_that_start_at_once_on_an_empty_postgresql_all_serve_and_go_on_after_an_upgrade(
    postgresql: str, cog: str, tmp_path: Path
) -> None:
    database = postgres.new_database(postgresql)
    options: dict[str, Any] = {"models": ["text"], "urls": {"text": [cog]}, "database": database}
    servers = [ApiServer(tmp_path / name, **options) for name in "ab"]
    with contextlib.ExitStack() as stack, Threads() as threads:
        for server in servers:
            stack.callback(server.stop)
        list(threads.map(ApiServer.start, servers))  # also the tables of DBOS
        before = servers[0].create("text", wait=True, text="before")
        # What a newer release may add, while both servers of this one run.
        with postgres.connect(database) as connection:
            connection.execute("ALTER TABLE predictions ADD COLUMN added TEXT DEFAULT 'x' NOT NULL")
            connection.execute("ALTER TABLE files ADD COLUMN added TEXT")
            connection.execute("CREATE TABLE added (id INTEGER)")
            connection.execute("CREATE INDEX added_index ON predictions (added)")
            connection.execute(f"INSERT INTO schema_versions VALUES ({NEWEST + 1})")
        for server in servers:
            assert server.get(before["id"])["output"] == "before"
            assert server.create("text", wait=True, text="after")["output"] == "after"
            assert server.http.post("/files", files={"content": ("a.txt", b"abc")}).status_code == 201
            assert server.logged_errors() == []


def test_a_step_only_adds_what_servers_of_the_release_before_ignore() -> None:
    column = r"ALTER TABLE \w+ ADD COLUMN \w+ \w+(\(\d+\))?( DEFAULT \S+( NOT NULL)?)?"
    for statement in chain.from_iterable(STEPS):
        assert re.fullmatch(rf"CREATE (TABLE|INDEX) .*|{column}", statement, re.DOTALL), statement


def test_the_tables_of_dbos_are_those_of_the_newest_version() -> None:
    # DBOS upgrades its own tables and accepts newer ones. If a new DBOS has others, add an empty step to STEPS, so that
    # servers with the DBOS before it do not start.
    assert NEWEST == 2
    assert (len(get_dbos_migrations("dbos", True, False)), len(sqlite_migrations)) == (125, 125)
