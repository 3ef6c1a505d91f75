"""Workers that come and go: a name whose addresses change, and no worker at all."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from api_server import ApiServer, cog_at, wait_for_runs
from name_server import name_server, with_name_server
from ports import free_port

NAME = "animate-diff"


def test_predictions_wait_for_a_worker_and_one_that_goes_ends_its_prediction_and_gets_no_other(tmp_path: Path) -> None:
    port, runs, go = free_port(), tmp_path / "runs", tmp_path / "go"
    urls = {"text": [f"dns+http://{NAME}:{port}"]}
    with (
        name_server() as names,
        ApiServer(tmp_path / "api", models=["text"], urls=urls, run_with=with_name_server) as server,
        cog_at("127.0.1.1", port, tmp_path / "1"),
        cog_at("127.0.1.2", port, tmp_path / "2"),
    ):
        created = [server.create("text", text=str(number), mark=str(runs), hold=str(go)) for number in range(3)]
        assert {prediction["logs"] for prediction in created} == {"waiting for a worker ...\n"}
        assert (server.metric("predictions_waiting", "text"), server.metric("cog_servers", "text")) == (3, 0)
        names.addresses[NAME] = ["127.0.1.1"]
        wait_for_runs(runs, 1)
        names.addresses[NAME] = ["127.0.1.2"]
        wait_for_runs(runs, 2)
        assert (server.metric("predictions_waiting", "text"), server.metric("predictions_running", "text")) == (1, 2)
        go.touch()
        assert [server.wait_for(prediction["id"])["status"] for prediction in created] == ["succeeded"] * 3
        assert runs.read_text().split() == ["0", "1", "2"]
        log = [json.loads(line) for line in server.log.read_text().splitlines()]
        # A worker may refuse a prediction as busy for a moment. Then it is sent there again.
        sent = {(line["prediction"], line["message"]) for line in log if line["message"].startswith("sent to ")}
        assert Counter(message for _, message in sent) == {f"sent to http://127.0.1.{n}:{port}": n for n in (1, 2)}
        assert server.logged_errors() == []


def test_a_prediction_without_a_worker_fails_after_the_bound_with_the_states_of_all(tmp_path: Path) -> None:
    urls = {"text": ["http://127.0.0.1:9", "dns+http://nothing.invalid:5000"]}  # discard; RFC 2606
    with ApiServer(tmp_path, models=["text"], urls=urls, setup_timeout=1) as server:
        failed = server.create("text", wait=True)
    assert failed["error"] == "no Cog server became ready within 1 s: http://127.0.0.1:9 is GONE"
