"""Creating, waiting for, reading and canceling predictions, as in Replicate's documents and clients.

"OpenAPI" is Replicate's OpenAPI document.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from api_server import TOKEN, VERSIONS, ApiServer, post_raw, wait_for_runs

TEXT = VERSIONS["text"]


def create(server: ApiServer, **headers: str) -> httpx.Response:
    return server.http.post("/predictions", json={"version": TEXT, "input": {"text": "hi"}}, headers=headers)


def parse_time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def test_create_answers_immediately_with_the_members_of_replicates_answer(server: ApiServer) -> None:
    answer = create(server)
    body = answer.json()
    # Replicate's answer, recorded on 2025-07-29, does not have started_at, completed_at and metrics.
    expected = {"id", "model", "version", "input", "logs", "output", "data_removed", "error", "status", "created_at"}
    assert set(body) == {*expected, "urls", "source"}
    assert answer.status_code == 201
    assert re.fullmatch("[0-9a-hjkmnp-tv-z]{26}", body["id"])  # Crockford's base32, like Replicate's ids since 2024
    assert (body["status"], body["output"], body["error"], body["logs"]) == ("starting", None, None, "")
    assert (body["model"], body["version"], body["data_removed"]) == ("test/text", TEXT, False)
    assert abs(parse_time(body["created_at"]).timestamp() - time.time()) < 60
    url = f"{server.url}/v1/predictions/{body['id']}"
    stream = body["urls"].pop("stream")
    assert re.fullmatch(f"{server.url}/v1/streams/[0-9a-z]{{52}}", stream)
    assert body["urls"] == {"get": url, "cancel": f"{url}/cancel", "web": url}
    assert answer.headers["location"] == url


def test_a_succeeded_prediction_has_times_metrics_and_output(server: ApiServer) -> None:
    created = server.create("text", text="hi", sleep=0.3)
    body = server.wait_for(created["id"])
    assert (body["status"], body["output"], body["error"]) == ("succeeded", "hi", None)
    times = [parse_time(body[name]) for name in ("created_at", "started_at", "completed_at")]
    assert times == sorted(times)
    assert 0.3 <= body["metrics"]["predict_time"] <= body["metrics"]["total_time"]
    assert body["metrics"]["total_time"] == pytest.approx((times[2] - times[0]).total_seconds(), abs=1e-5)


def test_inputs_are_returned_sorted_by_name_as_by_replicate(server: ApiServer) -> None:
    body = server.create("text", text="a", steps=1, sleep=0, end="well")
    assert list(body["input"]) == ["end", "sleep", "steps", "text"]


def test_a_large_data_uri_in_a_file_input_is_returned_as_a_url(server: ApiServer) -> None:
    for content, prefix in (("a" * 300_000, f"{server.url}/v1/delivery/"), ("small", "data:")):
        body = server.create("text", wait=True, file=f"data:text/plain,{content}", text=f"data:,{content}")
        assert body["output"] == content  # the model reads the file
        assert body["input"]["file"].startswith(prefix)
        assert body["input"]["text"] == f"data:,{content}"  # a text input is not stored as a file
        if prefix != "data:":
            assert httpx.get(body["input"]["file"], timeout=60).text == content


def test_prefer_wait_answers_when_the_prediction_ends(server: ApiServer) -> None:
    answer = create(server, Prefer="wait=59")
    assert answer.json()["status"] == "succeeded"
    assert answer.headers["preference-applied"] == "wait=59"


def test_a_wait_with_a_fraction_is_rounded_up(server: ApiServer) -> None:
    assert create(server, Prefer="wait=2.5").headers["preference-applied"] == "wait=3"
    assert create(server, Prefer="wait=0.1").headers["preference-applied"] == "wait=1"


JSON, FORM = "application/json; charset=utf-8", "application/x-www-form-urlencoded"


@pytest.mark.parametrize("types", [(JSON, FORM), (FORM, JSON), (f"{JSON}, {JSON}",), (JSON, JSON)])
def test_a_content_type_that_is_given_twice_is_accepted_in_either_order(
    server: ApiServer, types: tuple[str, ...]
) -> None:
    headers = [("Content-Type", kind) for kind in types]
    content = json.dumps({"version": TEXT, "input": {}}).encode()
    assert server.http.post("/predictions", content=content, headers=headers).status_code == 201


def test_json_as_a_parameter_of_a_type_that_pages_may_send_is_refused(server: ApiServer) -> None:
    # Fetch standard, "CORS-safelisted request-header": the essence of this value is text/plain.
    headers = {"Content-Type": "text/plain;a=b, application/json"}
    assert server.http.post("/predictions", content=b"{}", headers=headers).status_code == 415


def test_an_unknown_input_is_dropped_and_named_in_the_logs_with_the_nearest_one(server: ApiServer) -> None:
    created = server.create("text", wait=True, txet="hi", zzz=1, text="a")
    assert created["output"] == "a"
    assert created["input"] == {"text": "a"}
    assert created["logs"].splitlines() == [
        'Ignored input "txet", which test/text does not have; did you mean text?',
        'Ignored input "zzz", which test/text does not have',
        "text: a",
    ]
    stream = httpx.get(created["urls"]["stream"], timeout=60).text
    assert stream.index("Ignored input") < stream.index("data: text: a")


def test_a_text_that_looks_like_a_file_is_a_text(server: ApiServer) -> None:
    for text in ("Data: 1, 2 and 3", "data:text/plain;base64,YWJj", "data:,x"):
        assert server.create("text", wait=True, text=text)["output"] == text


def test_prefer_wait_answers_starting_after_its_time_while_the_model_runs(server: ApiServer, tmp_path: Path) -> None:
    body = server.create("text", headers={"Prefer": "wait=1"}, hold=str(tmp_path / "never"))
    assert (body["status"], body["output"]) == ("starting", None)
    assert server.wait_for(body["id"], "processing")["started_at"]
    server.http.post(f"/predictions/{body['id']}/cancel")


def test_a_prediction_goes_on_when_its_client_disconnects(server: ApiServer, tmp_path: Path) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    inputs = {"text": "disconnected", "mark": str(runs), "hold": str(go)}
    body = json.dumps({"version": TEXT, "input": inputs}).encode()
    length = str(len(body))
    with post_raw(f"{server.url}/v1/predictions", TOKEN, body, prefer="wait", content_length=length):
        wait_for_runs(runs)
    go.touch()
    newest = server.http.get("/predictions").json()["results"][0]
    assert newest["input"] == inputs
    assert server.wait_for(newest["id"])["output"] == "disconnected"


@pytest.mark.parametrize("prefix", ["", "/v1", "/replicate/v1"])
def test_a_prediction_is_created_and_read_below_every_documented_prefix(server: ApiServer, prefix: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"{server.url}{prefix}/predictions"
    answer = httpx.post(url, json={"version": TEXT, "input": {}}, headers=headers, timeout=60)
    assert answer.status_code == 201
    body = httpx.get(f"{url}/{answer.json()['id']}", headers=headers, timeout=60).json()
    assert body["id"] == answer.json()["id"]


def test_canceling_an_ended_prediction_returns_it_unchanged(server: ApiServer) -> None:
    done = server.create("text", wait=True)
    before = server.get(done["id"])
    answer = server.http.post(f"/predictions/{done['id']}/cancel")
    assert (answer.status_code, answer.json()) == (200, before)


# Recorded from Replicate.
VERSION_FAULT = {
    "title": "Invalid version or not permitted",
    "detail": "The specified version does not exist (or perhaps you don't have permission to use it?)",
    "status": 422,
}
NOT_FOUND = {"detail": "The requested resource could not be found.", "status": 404}


def test_a_missing_version_and_an_additional_member_are_both_named(server: ApiServer) -> None:
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
        ("POST", "/models/test/none/predictions"),
        ("POST", "/models/text/predictions"),
        ("GET", "/nothing"),
    ],
)
def test_an_unknown_prediction_model_or_path_is_404(server: ApiServer, method: str, path: str) -> None:
    answer = server.http.request(method, path, json={"input": {}} if method == "POST" else None)
    assert (answer.status_code, answer.json()) == (404, NOT_FOUND)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("authorization", "detail"),
    [
        ("", "You did not pass an authentication token"),
        ("Bearer wrong", "You did not pass a valid authentication token"),
        ("Basic test-token", "You did not pass a valid authentication token"),
    ],
)
def test_every_path_without_the_token_is_401(server: ApiServer, authorization: str, detail: str) -> None:
    paths = ("/v1/predictions", "/v1/account", "/metrics", "/v1/nothing", "/v1/files", "/v1//predictions")
    for path in (*paths, "/v1/webhooks/default/secret"):
        answer = httpx.get(
            server.url + path, headers={"Authorization": authorization} if authorization else {}, timeout=60
        )
        assert (answer.status_code, answer.json()) == (
            401,
            {"title": "Unauthenticated", "detail": detail, "status": 401},
        )
    assert "wrong" not in server.log.read_text()


def test_the_older_scheme_token_is_accepted(server: ApiServer) -> None:
    headers = {"Authorization": f"Token {server.token}"}
    assert httpx.get(f"{server.url}/v1/account", headers=headers, timeout=60).status_code == 200


def test_neither_log_nor_database_contains_the_token(server: ApiServer) -> None:
    create(server, Prefer="wait")
    paths = [path for path in server.directory.rglob("*") if path.is_file()]
    assert [path for path in paths if path.name.endswith(("sqlite", "-wal", "log"))]
    for path in paths:
        assert str(server.token).encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"\xff", {}, 400),
        (b"[" + b"[]," * 600_000 + b"[]]", {}, 400),
        (b'{"version": "v", "input": {}, "webhook_events_filter": [' + b'"start",' * 9000 + b'"start"]}', {}, 422),
        (b'{"version": NaN, "input": {}}', {}, 400),
        (b"{}", {"content_type": "text/plain"}, 415),  # what another site's page may send without a preflight
        (b"{}", {"content_length": str(2**40)}, 413),
    ],
)
def test_a_body_that_is_invalid_too_large_or_of_another_type_is_refused(
    server: ApiServer, content: bytes, headers: dict[str, str], status: int
) -> None:
    headers = {"content_length": str(len(content)), "connection": "close", **headers}
    with post_raw(f"{server.url}/v1/predictions", TOKEN, content, **headers) as connection:
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    problem = json.loads(received.split(b"\r\n\r\n", 1)[1])
    assert problem["status"] == status
    assert problem["detail"]


def test_a_text_of_a_million_commas_is_accepted(server: ApiServer) -> None:
    answer = server.http.post("/predictions", json={"version": "f" * 64, "input": {"text": "," * 1_048_500}})
    assert (answer.status_code, answer.json()) == (422, VERSION_FAULT)  # the body itself is valid


def test_a_queued_prediction_is_canceled_immediately_and_never_runs(server: ApiServer, tmp_path: Path) -> None:
    go, mark = tmp_path / "go", tmp_path / "mark"
    first = server.create("text", hold=str(go))["id"]
    queued = server.create("text", mark=str(mark))["id"]
    assert server.http.post(f"/predictions/{queued}/cancel").json()["status"] == "canceled"
    go.touch()
    assert server.wait_for(first)["status"] == "succeeded"
    server.create("text", wait=True)
    assert not mark.exists()
    assert "started_at" not in server.get(queued)


def test_a_deadline_cancels_a_running_prediction_and_aborts_a_queued_one(server: ApiServer, tmp_path: Path) -> None:
    # OpenAPI: canceled "because it reached its deadline while running"; aborted "before the prediction starts".
    headers = {"Cancel-After": "5s"}
    never = str(tmp_path / "never")
    running = server.create("text", headers=headers, hold=never)
    between = server.create("text", hold=never)["id"]  # so that the queued one does not start when the first one ends
    queued = server.create("text", headers=headers)
    assert (parse_time(running["deadline"]) - parse_time(running["created_at"])).total_seconds() == 5
    assert server.wait_for(running["id"])["status"] == "canceled"
    # The official Python client cannot read `aborted`, and the JavaScript client would wait forever.
    assert server.wait_for(queued["id"])["status"] == "canceled"
    answer = server.http.get(f"/predictions/{queued['id']}", headers={"User-Agent": "curl/8.5.0"})
    assert answer.json()["status"] == "aborted"
    server.http.post(f"/predictions/{between}/cancel").raise_for_status()


@pytest.mark.parametrize("cancel_after", ["4", "4s", "soon", "", "1h 5m", "9999999h", "-5"])
def test_an_invalid_deadline_is_refused(server: ApiServer, cancel_after: str) -> None:
    answer = create(server, **{"Cancel-After": cancel_after})
    assert answer.status_code == 422
    assert "Cancel-After" in answer.json()["detail"]


@pytest.mark.parametrize(("cancel_after", "seconds"), [("5", 5), ("90", 90), ("2m", 120), ("1h30m45s", 5445)])
def test_a_deadline_may_have_hours_minutes_and_seconds(server: ApiServer, cancel_after: str, seconds: int) -> None:
    body = create(server, **{"Cancel-After": cancel_after}).json()
    assert (parse_time(body["deadline"]) - parse_time(body["created_at"])).total_seconds() == seconds


def test_health_metrics_and_docs_are_served_and_docs_loads_nothing_from_other_hosts(server: ApiServer) -> None:
    assert httpx.get(f"{server.url}/health", timeout=60).json() == {"status": "ok"}
    create(server, Prefer="wait")
    assert httpx.request("ANYTHING", f"{server.url}/health", timeout=60).status_code == 405
    metrics = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {server.token}"}, timeout=60).text
    assert re.search(r'^predictions_ended_total\{model="test/text",status="succeeded"\} [1-9]', metrics, re.MULTILINE)
    assert 'method="other"' in metrics
    assert "ANYTHING" not in metrics
    page = httpx.get(f"{server.url}/docs", timeout=60).text
    assert "POST /predictions" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)


def test_every_line_of_the_log_is_json_and_names_its_prediction(server: ApiServer) -> None:
    prediction_id = server.create("text", wait=True)["id"]
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {"queued for test/text"} <= {line["message"] for line in lines if line.get("prediction") == prediction_id}
