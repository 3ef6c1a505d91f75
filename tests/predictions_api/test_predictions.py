"""Creating, waiting for, reading and canceling predictions, as Replicate's documents and clients have it.

"notes" below are facts recorded from Replicate and its clients; "OpenAPI" is Replicate's own document.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from api_server import VERSIONS, ApiServer

TEXT = VERSIONS["text"]


def create(server: ApiServer, **headers: str) -> httpx.Response:
    return server.http.post("/predictions", json={"version": TEXT, "input": {"text": "hi"}}, headers=headers)


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def test_a_new_prediction_is_answered_at_once_as_replicate_answers_it(server: ApiServer) -> None:
    answer = create(server)
    body = answer.json()
    # A recorded answer of Replicate's (2025-07-29) has these members, and none of started_at, completed_at, metrics.
    expected = {"id", "model", "version", "input", "logs", "output", "data_removed", "error", "status", "created_at"}
    assert set(body) == {*expected, "urls", "source"}
    assert answer.status_code == 201
    assert re.fullmatch("[0-9a-hjkmnp-tv-z]{26}", body["id"])  # Crockford's base32, as ids since 2024
    assert (body["status"], body["output"], body["error"], body["logs"]) == ("starting", None, None, "")
    assert (body["model"], body["version"], body["data_removed"]) == ("test/text", TEXT, False)
    assert abs(moment(body["created_at"]).timestamp() - time.time()) < 60
    place = f"{server.url}/v1/predictions/{body['id']}"
    assert body["urls"] == {"get": place, "cancel": f"{place}/cancel", "web": place}
    assert answer.headers["location"] == place


def test_a_prediction_that_ended_has_its_times_its_metrics_and_its_output(server: ApiServer) -> None:
    created = server.create("text", text="hi", sleep=0.3)
    body = server.until(created["id"])
    assert (body["status"], body["output"], body["error"]) == ("succeeded", "hi", None)
    began, started, ended = (moment(body[name]) for name in ("created_at", "started_at", "completed_at"))
    assert began <= started <= ended
    assert 0.3 <= body["metrics"]["predict_time"] <= body["metrics"]["total_time"]
    assert body["metrics"]["total_time"] == pytest.approx((ended - began).total_seconds(), abs=1e-5)


def test_each_update_of_a_progress_bar_is_a_line_of_the_logs(server: ApiServer) -> None:
    logs = server.create("text", wait=True, steps=4, sleep=0.1)["logs"]
    # The official Python client's pattern, prediction.py; it looks at lines.
    bar = re.compile(r"^\s*(?P<percentage>\d+)%\s*\|.+?\|\s*(?P<current>\d+)\/(?P<total>\d+)")
    assert [found["current"] for line in logs.split("\n") if (found := bar.match(line))] == ["1", "2", "3", "4"]
    assert "\r" not in logs


def test_a_failed_prediction_has_the_models_error_and_its_logs(server: ApiServer) -> None:
    body = server.create("text", wait=True, end="fail")
    assert (body["status"], body["error"], body["output"]) == ("failed", "ValueError: told to fail", None)
    assert body["logs"].startswith("text: hello\n")


def test_inputs_come_back_sorted_as_replicate_sorts_them(server: ApiServer) -> None:
    body = server.create("text", text="a", steps=1, sleep=0, end="well")
    assert list(body["input"]) == ["end", "sleep", "steps", "text"]


def test_a_large_file_within_the_inputs_is_kept_as_a_file_and_a_small_one_stays(server: ApiServer) -> None:
    for content, prefix in (("a" * 300_000, f"{server.url}/v1/delivery/"), ("small", "data:")):
        body = server.create("text", wait=True, file=f"data:text/plain,{content}", text=f"data:,{content}")
        assert body["output"] == content  # the model reads the file
        assert body["input"]["file"].startswith(prefix)
        assert body["input"]["text"] == f"data:,{content}"  # a text is no file, whatever is in it
        if prefix != "data:":
            assert httpx.get(body["input"]["file"]).text == content


def test_waiting_ends_with_the_prediction(server: ApiServer) -> None:
    answer = create(server, Prefer="wait=30")
    assert answer.json()["status"] == "succeeded"
    assert answer.headers["preference-applied"] == "wait=30"


def test_waiting_ends_with_its_time_and_says_starting_though_the_model_runs(server: ApiServer) -> None:
    began = time.monotonic()
    body = server.create("text", headers={"Prefer": "wait=1"}, sleep=30)
    # The Python client hangs up half a second after the time that it asked for, _create_prediction_timeout.
    assert time.monotonic() - began < 1.5
    assert (body["status"], body["output"]) == ("starting", None)
    assert server.until(body["id"], "processing")["started_at"]
    server.http.post(f"/predictions/{body['id']}/cancel")


def test_a_client_that_hangs_up_while_it_waits_leaves_the_prediction_running(server: ApiServer) -> None:
    place = urlsplit(server.url)
    mark = "hung up"
    body = json.dumps({"version": TEXT, "input": {"text": mark, "sleep": 0.5}}).encode()
    with socket.create_connection((place.hostname, place.port)) as connection:
        head = f"POST /v1/predictions HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {server.token}\r\n"
        head += f"Prefer: wait\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(0.2)
    for _ in range(500):
        rows = server.http.get("/predictions").json()["results"]
        found = [row for row in rows if row["input"].get("text") == mark]
        if found and found[0]["status"] == "succeeded":
            break
        time.sleep(0.02)
    assert found[0]["output"] == mark


@pytest.mark.parametrize("prefix", ["", "/v1", "/replicate/v1"])
def test_the_documents_prefixes_all_work(server: ApiServer, prefix: str) -> None:
    headers = {"Authorization": f"Bearer {server.token}"}
    answer = httpx.post(f"{server.url}{prefix}/predictions", json={"version": TEXT, "input": {}}, headers=headers)
    assert answer.status_code == 201
    body = httpx.get(f"{server.url}{prefix}/predictions/{answer.json()['id']}", headers=headers).json()
    assert body["id"] == answer.json()["id"]


@pytest.mark.parametrize("version", [TEXT, f"test/text:{TEXT}", "test/text"])
def test_a_version_has_three_names(server: ApiServer, version: str) -> None:
    answer = server.http.post("/predictions", json={"version": version, "input": {}})
    assert (answer.status_code, answer.json()["version"]) == (201, TEXT)


def test_a_model_can_be_named_by_the_path(server: ApiServer) -> None:
    answer = server.http.post("/models/test/text/predictions", json={"input": {"text": "x"}})
    assert (answer.status_code, answer.json()["model"]) == (201, "test/text")


# The bodies are those that Replicate was recorded with.
VERSION_FAULT = {
    "title": "Invalid version or not permitted",
    "detail": "The specified version does not exist (or perhaps you don't have permission to use it?)",
    "status": 422,
}
NOT_FOUND = {"detail": "The requested resource could not be found.", "status": 404}


def test_an_unknown_version_is_refused_in_replicates_words(server: ApiServer) -> None:
    answer = server.http.post("/predictions", json={"version": "f" * 64, "input": {}})
    assert (answer.status_code, answer.json()) == (422, VERSION_FAULT)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_missing_version_and_an_unknown_member_are_told_together(server: ApiServer) -> None:
    answer = server.http.post("/predictions", json={"model": "test/text", "input": {}})
    assert answer.json() == {
        "title": "Input validation failed",
        "detail": "- version is required\n- Additional property model is not allowed\n",
        "status": 422,
        "invalid_fields": [
            {"type": "required", "field": "", "description": "version is required"},
            {
                "type": "additional_property_not_allowed",
                "field": "",
                "description": "Additional property model is not allowed",
            },
        ],
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/predictions/" + "0" * 26),
        ("POST", f"/predictions/{'0' * 26}/cancel"),
        ("GET", "/models/test/none"),
        ("POST", "/models/test/none/predictions"),
        ("GET", "/nothing"),
    ],
)
def test_what_does_not_exist_is_one_404(server: ApiServer, method: str, path: str) -> None:
    answer = server.http.request(method, path, json={"input": {}} if method == "POST" else None)
    assert (answer.status_code, answer.json()) == (404, NOT_FOUND)


@pytest.mark.parametrize(
    ("authorization", "detail"),
    [
        ("", "You did not pass an authentication token"),
        ("Bearer wrong", "You did not pass a valid authentication token"),
        ("Basic test-token", "You did not pass a valid authentication token"),
    ],
)
def test_without_the_token_everything_is_a_401(server: ApiServer, authorization: str, detail: str) -> None:
    for path in ("/v1/predictions", "/v1/account", "/metrics", "/v1/nothing", "/v1/files", "/v1//predictions"):
        answer = httpx.get(server.url + path, headers={"Authorization": authorization} if authorization else {})
        assert (answer.status_code, answer.json()) == (
            401,
            {"title": "Unauthenticated", "detail": detail, "status": 401},
        )
    assert "wrong" not in server.log.read_text()


def test_the_older_word_token_is_a_scheme_too(server: ApiServer) -> None:
    headers = {"Authorization": f"Token {server.token}"}
    assert httpx.get(f"{server.url}/v1/account", headers=headers).status_code == 200


def test_the_token_is_in_no_log_and_no_database(server: ApiServer) -> None:
    create(server, Prefer="wait")
    places = [path for path in server.directory.rglob("*") if path.is_file()]
    assert [path for path in places if path.name.endswith(("sqlite", "-wal", "log"))]
    for path in places:
        assert str(server.token).encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"\xff", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"[" + b"[]," * 600_000 + b"[]]", {}, 400),
        (b'{"version": NaN, "input": {}}', {}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),  # what a page elsewhere may send without asking
        (b"{}", {"Content-Length": str(2**40)}, 413),
    ],
)
def test_a_body_that_is_no_json_is_a_clear_refusal(
    server: ApiServer, content: bytes, headers: dict[str, str], status: int
) -> None:
    place = urlsplit(server.url)
    members = {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    head = f"POST /v1/predictions HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {server.token}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in members.items()) + "Connection: close\r\n\r\n"
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(head.encode() + content)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    problem = json.loads(received.split(b"\r\n\r\n", 1)[1])
    assert problem["status"] == status
    assert problem["detail"]


def test_a_long_text_may_have_many_commas(server: ApiServer) -> None:
    answer = server.http.post("/predictions", json={"version": "f" * 64, "input": {"text": "," * 1_048_500}})
    assert (answer.status_code, answer.json()) == (422, VERSION_FAULT)  # read, that is, and understood


def test_canceling_while_it_runs_is_told_at_once_and_frees_the_model(server: ApiServer) -> None:
    running = server.create("text", sleep=60)["id"]
    server.until(running, "processing")
    body = server.http.post(f"/predictions/{running}/cancel").json()
    assert body["status"] == "canceled"
    assert body["completed_at"]
    assert server.create("text", wait=True, text="next")["output"] == "next"
    assert server.get(running)["status"] == "canceled"


def test_canceling_in_the_queue_is_told_at_once_and_it_never_runs(server: ApiServer, tmp_path: Path) -> None:
    go, mark = tmp_path / "go", tmp_path / "mark"
    first = server.create("text", hold=str(go))["id"]
    queued = server.create("text", mark=str(mark))["id"]
    assert server.http.post(f"/predictions/{queued}/cancel").json()["status"] == "canceled"
    go.touch()
    assert server.until(first)["status"] == "succeeded"
    server.create("text", wait=True)
    assert not mark.exists()
    assert "started_at" not in server.get(queued)


def test_canceling_what_has_ended_returns_it_unchanged(server: ApiServer) -> None:
    done = server.create("text", wait=True)
    before = server.get(done["id"])
    answer = server.http.post(f"/predictions/{done['id']}/cancel")
    assert (answer.status_code, answer.json()) == (200, before)


def test_a_deadline_ends_what_runs_as_canceled_and_what_waits_as_aborted(server: ApiServer) -> None:
    # OpenAPI: canceled "because it reached its deadline while running"; aborted "before the prediction starts".
    headers = {"Cancel-After": "5s"}
    running = server.create("text", headers=headers, sleep=60)
    waiting = server.create("text", headers=headers)
    assert (moment(running["deadline"]) - moment(running["created_at"])).total_seconds() == 5
    assert server.until(running["id"])["status"] == "canceled"
    assert server.until(waiting["id"])["status"] == "aborted"
    # The official Python client cannot read `aborted`, and the JavaScript client waits for ever on it.
    agent = {"User-Agent": "replicate-python/1.0.7"}
    assert server.http.get(f"/predictions/{waiting['id']}", headers=agent).json()["status"] == "canceled"


@pytest.mark.parametrize("cancel_after", ["4", "4s", "soon", "", "1h 5m", "9999999h", "-5"])
def test_a_deadline_that_cannot_be_is_refused(server: ApiServer, cancel_after: str) -> None:
    answer = create(server, **{"Cancel-After": cancel_after})
    assert answer.status_code == 422
    assert "Cancel-After" in answer.json()["detail"]


@pytest.mark.parametrize(("cancel_after", "seconds"), [("5", 5), ("90", 90), ("2m", 120), ("1h30m45s", 5445)])
def test_a_deadline_has_hours_minutes_and_seconds(server: ApiServer, cancel_after: str, seconds: int) -> None:
    body = create(server, **{"Cancel-After": cancel_after}).json()
    assert (moment(body["deadline"]) - moment(body["created_at"])).total_seconds() == seconds


def test_account_and_hardware_have_what_the_clients_read(server: ApiServer) -> None:
    assert {"type", "username", "name"} <= set(server.http.get("/account").json())
    hardware: list[dict[str, Any]] = server.http.get("/hardware").json()
    assert hardware and all(set(row) == {"sku", "name"} for row in hardware)


def test_health_figures_and_the_page_need_nothing_from_elsewhere(server: ApiServer) -> None:
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    create(server, Prefer="wait")
    assert httpx.request("ANYTHING", f"{server.url}/health").status_code == 405
    figures = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {server.token}"}).text
    assert re.search(r'^predictions_ended_total\{model="test/text",status="succeeded"\} [1-9]', figures, re.MULTILINE)
    assert 'method="other"' in figures
    assert "ANYTHING" not in figures
    page = httpx.get(f"{server.url}/docs").text
    assert "POST /predictions" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)


def test_every_line_of_the_log_is_json_and_tells_the_prediction(server: ApiServer) -> None:
    prediction_id = server.create("text", wait=True)["id"]
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {"queued for test/text"} <= {line["message"] for line in lines if line.get("prediction") == prediction_id}
