"""What one prediction costs on its way from the request to the answer: transactions, and requests to Cog."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from api_in_process import ApiInProcess
from api_server import MODELS, VERSIONS, cog_server
from predictions_api.settings import ModelSettings


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    with cog_server("text") as text, cog_server("words") as words, pytest.MonkeyPatch.context() as patch:
        # On a busy machine, a prediction may take two seconds, the next may come five later, and a sweep at any moment.
        patch.setattr("predictions_api.run.cog_client._HEALTH_INTERVAL", 3600.0)
        patch.setattr("predictions_api.run.cog_client._STATE_AGE", 3600.0)
        patch.setattr("predictions_api.run.service.SWEEP_INTERVAL", 3600.0)
        models = tuple(
            ModelSettings(f"test/{name}", (VERSIONS[name],), schema=MODELS / name / "openapi.json", urls=(process.url,))
            for name, process in {"text": text, "words": words}.items()
        )
        with ApiInProcess(tmp_path_factory.mktemp("api"), models=models) as running:
            yield running


@contextmanager
def counted(api: ApiInProcess) -> Iterator[Counter[str]]:
    """Count the statements that write, by file and table, and the requests to Cog servers."""
    counts: Counter[str] = Counter()

    def count_statement(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        words = re.sub(r'"|\bmain\.', "", statement).split()
        if words[0] in ("INSERT", "UPDATE", "DELETE", "BEGIN"):
            name = Path(connection.engine.url.database or "").name
            counts[f"{name}: {' '.join(words[: 3 if words[0] in ('INSERT', 'DELETE') else 2])}"] += 1

    async def count_request(request: httpx.Request) -> None:
        counts[f"Cog: {request.method} {request.url.path.split('/')[1]}"] += 1

    sa.event.listen(sa.Engine, "before_cursor_execute", count_statement)
    api.service.http.event_hooks = {"request": [count_request]}
    try:
        yield counts
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", count_statement)
        api.service.http.event_hooks = {}


def predict(api: ApiInProcess, name: str, **inputs: Any) -> Any:
    body = {"version": VERSIONS[name], "input": inputs}
    answer = api.http.post("/v1/predictions", json=body, headers={"Prefer": "wait"}, timeout=60).json()
    assert answer["status"] == "succeeded", answer
    with contextlib.closing(sqlite3.connect(api.settings.data / "queue.sqlite")) as queue:
        # The queue records the end after the answer.
        while queue.execute("SELECT 1 FROM workflow_status WHERE status IN ('ENQUEUED', 'PENDING')").fetchone():
            time.sleep(0.01)
    (url,) = api.service.workers[f"test/{name}"].urls
    while httpx.get(f"{url}/health-check", timeout=60).json()["status"] != "READY":
        time.sleep(0.01)
    return answer


def test_a_prediction_is_inserted_begun_and_ended_with_one_request_to_cog(api: ApiInProcess) -> None:
    predict(api, "text")
    with counted(api) as counts:
        predict(api, "text")
    callbacks_before_the_end = counts["predictions.sqlite: UPDATE predictions"] - 2
    assert callbacks_before_the_end in (0, 1)  # the model's log, unless Cog sends it with the end
    assert counts == {
        "predictions.sqlite: BEGIN": counts["predictions.sqlite: BEGIN"],  # reads begin, too
        "predictions.sqlite: BEGIN IMMEDIATE": 3 + callbacks_before_the_end,
        "predictions.sqlite: INSERT INTO predictions": 1,
        "predictions.sqlite: INSERT INTO events": 1 + callbacks_before_the_end,  # those of a callback together
        "predictions.sqlite: UPDATE predictions": 2 + callbacks_before_the_end,
        "queue.sqlite: INSERT INTO workflow_status": 1,
        "queue.sqlite: INSERT INTO workflow_input": 1,
        "queue.sqlite: INSERT INTO workflow_output": 1,
        "queue.sqlite: UPDATE workflow_status": 2,  # claimed, and ended
        "Cog: PUT predictions": 1,
    }


def test_callbacks_that_wait_for_each_other_are_recorded_together(
    api: ApiInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = 300
    all_wait = asyncio.Event()
    receive, update = api.service.driver.receive, api.service.records.update

    async def look_and_receive(prediction_id: str, key: str, payload: dict[str, Any]) -> bool:
        if len(payload.get("output") or []) == words:
            all_wait.set()
        return await receive(prediction_id, key, payload)

    async def wait_and_update(prediction_id: str, **changes: Any) -> Any:
        if "output" in changes:  # of a callback
            await all_wait.wait()
        return await update(prediction_id, **changes)

    monkeypatch.setattr(api.service.driver, "receive", look_and_receive)
    monkeypatch.setattr(api.service.records, "update", wait_and_update)
    with counted(api) as counts:
        answer = predict(api, "words", text="word " * words)
    assert answer["output"] == ["word "] * words
    # The start, the first callback, all others of the outputs, and the end unless it came before.
    assert counts["predictions.sqlite: UPDATE predictions"] <= 4
