"""One server for all tests that do not change it: SQLite, a token, and four test models in Cog's servers."""

from __future__ import annotations

from collections.abc import Iterator

import postgres
import pytest
from api_in_process import ApiInProcess
from api_server import ApiServer, cog_server


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    with ApiInProcess(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("predictions-api")) as running:
        yield running
    assert running.logged_errors() == []


@pytest.fixture(scope="module")
def cog() -> Iterator[str]:
    """Return the URL of a Cog server of the model `text`."""
    with cog_server("text") as running:
        yield running.url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Return the URL of a database of a PostgreSQL server, which postgres.new_database adds others to."""
    with postgres.cluster() as url:
        yield url
