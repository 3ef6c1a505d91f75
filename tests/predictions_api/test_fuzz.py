"""Requests that schemathesis generates from the server's OpenAPI document: none may fail or hang the server."""

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
    max_examples=6,  # for each operation and mode; each example is sent twice
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Target:
    """The tested server and ids that exist on it."""

    url: str
    ids: dict[str, str]

    def send(self, case: schemathesis.Case) -> None:
        answer = case.call(base_url=self.url, headers=HEADERS, timeout=60)
        assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("fuzz")
    with ApiServer(directory, models=["words"], webhook_retry_delays=[0.05]) as server:
        prediction = server.create("words", wait=True)
        file = server.http.post("/files", files={"content": ("a.txt", b"abc")}).json()
        ids = {
            "owner": "test",
            "name": "words",
            "version_id": VERSIONS["words"],
            "prediction_id": prediction["id"],
            "stream_key": urlsplit(prediction["urls"]["stream"]).path.split("/")[-1],
            "file_id": file["id"],
        }
        yield Target(f"{server.url}/v1", ids)
        assert server.http.get("/health").json() == {"status": "ok"}
    assert server.logged_errors() == []


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: str(mode.value))
def test_no_request_makes_the_server_fail(target: Target, mode: schemathesis.GenerationMode) -> None:
    # schemathesis's pytest plugin does not support pytest 9.2.
    document = schemathesis.openapi.from_url(target.url.replace("/v1", "/openapi.json"))
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @SETTINGS
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            target.send(case)
            target.send(with_existing_ids(case, target.ids))

        with contextlib.suppress(Unsatisfiable):  # an operation without parameters has no invalid request
            send()


def with_existing_ids(case: schemathesis.Case, ids: dict[str, str]) -> schemathesis.Case:
    """Return a request with its ids replaced by existing ones."""
    case.path_parameters = {name: ids.get(name, value) for name, value in (case.path_parameters or {}).items()}
    if isinstance(case.body, dict) and "input" in case.body:
        replacements = {"version": VERSIONS["words"], "webhook": "http://127.0.0.1:9/webhook"}
        case.body = {name: replacements.get(name, value) for name, value in case.body.items()}
    return case
