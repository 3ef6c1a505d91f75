"""Requests that nobody thought of, made by schemathesis from the server's own OpenAPI: none may fail or hang it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
import schemathesis
from api_server import TOKEN, VERSIONS, ApiServer
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SETTINGS = settings(
    max_examples=6,  # of each operation and mode, and each is sent twice
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Target:
    """The server that is asked, and ids of what is there."""

    url: str
    known: dict[str, str]

    def ask(self, case: schemathesis.Case) -> None:
        answer = case.call(base_url=self.url, headers=HEADERS, timeout=20)
        assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("fuzz")
    with ApiServer(directory, models=["words"], webhook_retry_delays=[0.05]) as server:
        prediction = server.create("words", wait=True)
        file = server.http.post("/files", files={"content": ("a.txt", b"abc")}).json()
        known = {
            "owner": "test",
            "name": "words",
            "version_id": VERSIONS["words"],
            "prediction_id": prediction["id"],
            "stream_key": urlsplit(prediction["urls"]["stream"]).path.split("/")[-1],
            "file_id": file["id"],
        }
        yield Target(f"{server.url}/v1", known)
        assert server.http.get("/health").json() == {"status": "ok"}
    assert server.problems() == []


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: str(mode.value))
def test_no_request_makes_the_server_fail(target: Target, mode: schemathesis.GenerationMode) -> None:
    # Without schemathesis's own way into pytest, which pytest 9.2 has no place for.
    document = schemathesis.openapi.from_url(target.url.replace("/v1", "/openapi.json"))
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @SETTINGS
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            target.ask(case)
            target.ask(with_known_ids(case, target.known))

        with contextlib.suppress(Unsatisfiable):  # what takes anything cannot be asked wrongly
            ask()


def with_known_ids(case: schemathesis.Case, known: dict[str, str]) -> schemathesis.Case:
    """Return a request with what would be told to be unknown replaced by what is there."""
    case.path_parameters = {name: known.get(name, value) for name, value in (case.path_parameters or {}).items()}
    if isinstance(case.body, dict) and "input" in case.body:
        replacements = {"version": VERSIONS["words"], "webhook": "http://127.0.0.1:9/nobody-listens"}
        case.body = {name: replacements.get(name, value) for name, value in case.body.items()}
    return case
