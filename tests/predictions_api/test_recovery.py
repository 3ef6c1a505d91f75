"""Predictions after a server was killed, and predictions whose webhooks from Cog are lost, invalid or late."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_in_process import ApiInProcess
from api_server import MODELS, VERSIONS, ApiServer, cog_server, wait_for_runs
from local_server import LocalServer
from predictions_api.settings import ModelSettings


@contextlib.contextmanager
def api_with_cog(directory: Path, **settings: Any) -> Iterator[ApiInProcess]:
    """Run a server in this process in front of a Cog server of the test model `text`."""
    with cog_server("text") as cog:
        schema = MODELS / "text" / "openapi.json"
        model = ModelSettings("test/text", (VERSIONS["text"],), schema=schema, urls=(cog.url,))
        with ApiInProcess(directory / "api", models=(model,), **settings) as running:
            yield running


def predict(api: ApiInProcess, **inputs: Any) -> Any:
    """Return the body of a prediction of the model after its end."""
    body = {"version": VERSIONS["text"], "input": inputs}
    return api.http.post("/v1/predictions", json=body, headers={"Prefer": "wait"}, timeout=90).json()


def test_a_hundred_queued_predictions_and_a_running_one_succeed_after_a_kill(tmp_path: Path) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    with ApiServer(tmp_path, models=["text"]) as server:
        running = server.create("text", text="running", mark=str(runs), hold=str(go))["id"]
        queued = [server.create("text", text=str(number), mark=str(runs))["id"] for number in range(100)]
        server.wait_for(running, "processing")
        wait_for_runs(runs)
        server.kill()
        go.touch()
        server.start()
        for prediction_id in [running, *queued]:
            assert server.wait_for(prediction_id)["status"] == "succeeded"
        again = server.get(running)
    # The running one runs again, before the others, and its logs say so. The others run once, in their order.
    assert runs.read_text().split() == ["running", "running", *map(str, range(100))]
    logs = again["logs"].removeprefix("starting text ...\n")
    assert logs.startswith("The server stopped while this prediction was running; it is run again.\n")
    assert again["logs"].endswith("text: running\n")


def test_a_prediction_interrupted_by_two_kills_fails(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with ApiServer(tmp_path, models=["text"]) as server:
        running = server.create("text", text="x", mark=str(runs), hold=str(tmp_path / "never"))["id"]
        for attempt in (1, 2):
            wait_for_runs(runs, attempt)
            server.kill()
            server.start()
        body = server.wait_for(running)
        next_one = server.create("text", wait=True, text="next")
    assert (body["status"], body["error"].split(":")[0]) == ("failed", "Prediction interrupted")
    assert next_one["output"] == "next"
    assert len(runs.read_text().split()) == 2


def test_a_remote_cog_server_cancels_the_prediction_of_a_killed_server(tmp_path: Path) -> None:
    # Otherwise the second attempt would wait for the end of the first.
    runs = tmp_path / "runs"
    with cog_server("text") as cog, ApiServer(tmp_path, models=["text"], urls={"text": [cog.url]}) as server:
        running = server.create("text", text="x", mark=str(runs), hold=str(tmp_path / "go"))["id"]
        wait_for_runs(runs)
        server.kill()
        server.start()
        wait_for_runs(runs, 2)
        (tmp_path / "go").touch()
        assert server.wait_for(running)["status"] == "succeeded"
        # A kill during a cancel leaves a prediction that has ended in the database only.
        stuck = server.create("text", hold=str(tmp_path / "never"))["id"]
        server.wait_for(stuck, "processing")
        server.kill()
        server.execute("UPDATE predictions SET status = 'canceled', completed_at = 1 WHERE id = ?", stuck)
        server.start()
        assert server.create("text", wait=True, text="next")["output"] == "next"


def test_an_invalid_webhook_from_cog_fails_its_prediction_with_the_reason(tmp_path: Path) -> None:
    # Cog does not repeat a webhook that was answered 400 or 413, so no other report would arrive.
    with ApiServer(tmp_path, models=["text"]) as server:
        running = server.create("text", hold=str(tmp_path / "never"))["id"]
        server.wait_for(running, "processing")
        ((key,),) = server.execute("SELECT callback_key FROM predictions")
        callback = f"{server.url}/callbacks/{running}/{key}"
        answer = httpx.post(callback, content="{", headers={"Content-Type": "application/json"}, timeout=60)
        assert answer.status_code == 400
        body = server.get(running)
    assert body["status"] == "failed"
    assert body["error"] == f"The report of the Cog server was refused: {answer.json()['detail']}"


def test_predictions_fail_if_cogs_webhooks_cannot_reach_the_server(tmp_path: Path) -> None:
    # For example in a container, where 127.0.0.1 is the container itself.
    nowhere = "http://127.0.0.1:9"  # the discard port (RFC 863), where nothing listens
    with (
        cog_server("text") as cog,
        ApiServer(tmp_path, models=["text"], urls={"text": [cog.url]}, internal_url=nowhere, silence=1.0) as server,
    ):
        first, second = server.create("text", text="x")["id"], server.create("text", text="y")["id"]
        for prediction in (server.wait_for(first), server.wait_for(second)):
            assert prediction["status"] == "failed"
            assert prediction["error"] == (
                f"Prediction interrupted: the Cog server at {cog.url} has ended it, "
                f"but its result did not reach {nowhere}; if the Cog server has a proxy in its environment "
                "(HTTP_PROXY, ALL_PROXY), add 127.0.0.1 to its NO_PROXY"
            )


def test_a_proxy_in_the_environment_of_the_server_is_used_for_no_callback_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with ApiServer(tmp_path, models=["text"]) as server:
        server.http = httpx.Client(
            base_url=f"{server.url}/v1", headers=server.http.headers, timeout=90, trust_env=False
        )
        body = server.create("text", wait=True, file="data:text/plain," + "x" * 300_000)  # Cog gets it by a URL
    assert (body["status"], body["error"]) == ("succeeded", None)
    assert body["output"] == "x" * 300_000


def test_a_completed_webhook_that_arrives_after_cog_is_ready_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("predictions_api.run.driver.CALLBACK_DELAY", 60.0)
    runs = tmp_path / "runs"

    class SlowProxy(BaseHTTPRequestHandler):  # between Cog and the server, like a slow network
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if b'"succeeded"' in body:
                wait_for_runs(runs, 2)  # the server has sent the prediction again, and Cog was ready
            headers = {"Content-Type": "application/json"}
            status = httpx.post(api.url + self.path, content=body, headers=headers, timeout=60).status_code
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with LocalServer(SlowProxy) as proxy, api_with_cog(tmp_path, internal_url=proxy.url, silence=0.2) as api:
        body = predict(api, mark=str(runs))
    assert (body["status"], body["error"]) == ("succeeded", None)


def test_a_prediction_without_webhooks_goes_on_while_cog_is_busy(tmp_path: Path) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    answered = 0

    async def count(answer: httpx.Response) -> None:
        nonlocal answered
        answered += answer.request.method == "PUT"
        if answered == 4:  # at the start, and three times to ask whether Cog still has it
            api.service.driver.settings = replace(api.settings, silence=3600.0)  # Cog would run it again after its end
            go.touch()

    with api_with_cog(tmp_path, silence=0.2) as api:
        api.service.http.event_hooks = {"response": [count]}
        body = predict(api, text="x", mark=str(runs), hold=str(go))
    assert body["status"] == "succeeded"
    assert runs.read_text().split() == ["x"]
