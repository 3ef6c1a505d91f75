"""What a server leaves when it dies, and what becomes of it."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from api_server import ApiServer, CogProcess


def test_a_hundred_queued_and_one_running_all_end_after_a_kill(tmp_path: Path) -> None:
    server = ApiServer(tmp_path, models=["text"])
    runs, go = tmp_path / "runs", tmp_path / "go"
    with server:
        running = server.create("text", text="running", mark=str(runs), hold=str(go))["id"]
        queued = [server.create("text", text=str(number), mark=str(runs))["id"] for number in range(100)]
        server.wait_for(running, "processing")
        while not runs.exists():
            time.sleep(0.02)
        server.kill()
        go.touch()
        server.start()
        for prediction_id in [running, *queued]:
            assert server.wait_for(prediction_id)["status"] == "succeeded"
        again = server.get(running)
    # The one that ran is run once more, before the others, and its logs say so; the others run once, in their order.
    assert runs.read_text().split() == ["running", "running", *map(str, range(100))]
    assert again["logs"].startswith("The server stopped while this prediction was running; it is run again.\n")
    assert again["logs"].endswith("text: running\n")


def test_what_stops_the_server_twice_is_not_run_a_third_time(tmp_path: Path) -> None:
    server = ApiServer(tmp_path, models=["text"])
    runs = tmp_path / "runs"
    with server:
        running = server.create("text", text="x", mark=str(runs), hold=str(tmp_path / "never"))["id"]
        for attempt in (1, 2):
            while not runs.exists() or len(runs.read_text().split()) < attempt:
                time.sleep(0.02)
            server.kill()
            server.start()
        body = server.wait_for(running)
        next_one = server.create("text", wait=True, text="next")
    assert (body["status"], body["error"].split(":")[0]) == ("failed", "Prediction interrupted")
    assert next_one["output"] == "next"
    assert len(runs.read_text().split()) == 2


def test_a_cog_server_elsewhere_is_told_to_stop_what_a_dead_server_gave_it(tmp_path: Path) -> None:
    # Without that it would go on with the first run while the second one waits for it.
    runs = tmp_path / "runs"
    with CogProcess("text") as cog:
        server = ApiServer(tmp_path, models=["text"], urls={"text": [cog.url]})
        with server:
            running = server.create("text", text="x", mark=str(runs), hold=str(tmp_path / "go"))["id"]
            while not runs.exists():
                time.sleep(0.02)
            server.kill()
            server.start()
            while len(runs.read_text().split()) < 2:
                time.sleep(0.02)
            (tmp_path / "go").touch()
            assert server.wait_for(running)["status"] == "succeeded"
            # So it is with one that ended in the table only, as a kill within a cancel leaves it.
            stuck = server.create("text", hold=str(tmp_path / "never"))["id"]
            server.wait_for(stuck, "processing")
            server.kill()
            with contextlib.closing(sqlite3.connect(tmp_path / "data" / "predictions.sqlite")) as database, database:
                database.execute("UPDATE predictions SET status = 'canceled', completed_at = 1 WHERE id = ?", [stuck])
            server.start()
            assert server.create("text", wait=True, text="next")["output"] == "next"


def test_what_a_cog_server_tells_and_cannot_be_read_fails_its_prediction_with_the_reason(tmp_path: Path) -> None:
    # Cog repeats no call that was answered 400 or 413, so nothing else would be told.
    with ApiServer(tmp_path, models=["text"]) as server:
        running = server.create("text", hold=str(tmp_path / "never"))["id"]
        server.wait_for(running, "processing")
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "predictions.sqlite")) as database:
            (key,) = database.execute("SELECT callback_key FROM predictions").fetchone()
        callback = f"{server.url}/callbacks/{running}/{key}"
        answer = httpx.post(callback, content="{", headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        body = server.get(running)
    assert body["status"] == "failed"
    assert body["error"] == f"The report of the Cog server was refused: {answer.json()['detail']}"


def test_no_cog_server_outlives_a_killed_server(tmp_path: Path) -> None:
    server = ApiServer(tmp_path, models=["text"])
    with server:
        server.create("text", wait=True)
        started = [line for line in server.log.read_text().splitlines() if "is ready at http" in line]
        port = int(started[-1].split("is ready at http://127.0.0.1:")[1].split('"')[0])
        server.kill()
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    break
            time.sleep(0.02)
        else:
            raise AssertionError("the Cog server still listens")


def test_a_cog_server_that_cannot_reach_this_server_fails_its_prediction_and_frees_its_place(tmp_path: Path) -> None:
    # A container whose own 127.0.0.1 this is: Cog runs the prediction, and its webhooks go nowhere.
    with CogProcess("text") as cog:
        nowhere = "http://127.0.0.1:9"  # the discard port (RFC 863), where nothing listens
        server = ApiServer(tmp_path, models=["text"], urls={"text": [cog.url]}, internal_url=nowhere, silence=1.0)
        with server:
            first, second = server.create("text", text="x")["id"], server.create("text", text="y")["id"]
            for prediction in (server.wait_for(first), server.wait_for(second)):
                assert prediction["status"] == "failed"
                assert prediction["error"] == (
                    f"Prediction interrupted: the Cog server at {cog.url} has ended it, "
                    f"but its result did not reach {nowhere}"
                )


def test_the_end_may_come_later_than_cog_is_free(tmp_path: Path) -> None:
    late = threading.Event()

    class Slow(BaseHTTPRequestHandler):  # between Cog and this server, as a slow network
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if b'"succeeded"' in body:
                late.wait(0.6)
            headers = {"Content-Type": "application/json"}
            status = httpx.post(server.url + self.path, content=body, headers=headers).status_code
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as slow:
        threading.Thread(target=slow.serve_forever).start()
        url = f"http://127.0.0.1:{slow.server_port}"
        with CogProcess("text") as cog:
            server = ApiServer(tmp_path, models=["text"], urls={"text": [cog.url]}, internal_url=url, silence=0.2)
            with server:
                body = server.create("text", wait=True)
        slow.shutdown()
    assert (body["status"], body["error"]) == ("succeeded", None)


def test_a_silent_prediction_goes_on(tmp_path: Path) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    with ApiServer(tmp_path, models=["text"], silence=2.0) as server:
        running = server.create("text", text="x", mark=str(runs), hold=str(go))["id"]
        server.wait_for(running, "processing")
        time.sleep(9)  # Cog has been asked four times; asked just when it is free, it would begin anew, and be stopped
        go.touch()
        assert server.wait_for(running)["status"] == "succeeded"
    assert runs.read_text().split() == ["x"]
