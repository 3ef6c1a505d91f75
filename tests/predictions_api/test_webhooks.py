"""Webhooks: what receivers get and can verify, how often, and what happens with receivers that do not behave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks
from api_in_process import TOKEN, ApiInProcess
from api_server import ApiServer
from predictions_api.errors import Problem
from predictions_api.run.addresses import CheckedTransport, Resolver, address_fault
from predictions_api.run.webhooks import MIN_INTERVAL, Delivery, signature_headers
from predictions_api.store.database import Database, now, random_key
from predictions_api.store.predictions import Prediction, new_id
from predictions_api.store.records import Records
from programs import needs
from replicate.webhook import Webhooks, WebhookSigningSecret

RETRY_DELAYS = (0.05, 0.05, 0.05)


@dataclass
class Call:
    """One call that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(self.body)
        return made


class Receiver:
    """An HTTP server that keeps what it gets, and answers by a path's first part: a status, or `wait`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.calls: list[Call] = []
        self.changed = threading.Condition()
        self.release = threading.Event()  # for those that wait
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with receiver.changed:
                    receiver.calls.append(Call(self.path, headers, body, time.monotonic()))
                    tries = sum(call.path == self.path for call in receiver.calls)
                    receiver.changed.notify_all()
                how = self.path.split("/")[1]
                if how == "wait":
                    receiver.release.wait(30)
                status = 500 if how == "twice-500" and tries <= 2 else int(how) if how.isdecimal() else 200
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", "/200/redirected")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def at(self, path: str) -> list[Call]:
        with self.changed:
            return [call for call in self.calls if call.path == path]

    def wait(self, path: str, enough: Callable[[list[Call]], bool]) -> list[Call]:
        """Return the calls to a path once there are enough."""
        with self.changed:
            assert self.changed.wait_for(lambda: enough([c for c in self.calls if c.path == path]), 30), self.calls
        return self.at(path)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    with ApiInProcess(tmp_path_factory.mktemp("webhooks"), webhook_retry_delays=RETRY_DELAYS) as running:
        yield running


def begin(api: ApiInProcess, url: str, events: list[str] | None = None) -> Prediction:
    """Record a prediction with a webhook that a Cog server has got."""
    made = api.prediction(webhook=url, webhook_events_filter=events)
    api.do(api.service.records.begin_attempt(made.id, worker="http://cog", callback_key=random_key()))
    return made


def ended(calls: list[Call]) -> bool:
    return bool(calls) and calls[-1].json["status"] in ("succeeded", "failed", "canceled", "aborted")


def delivery(api: ApiInProcess, prediction: Prediction, done: Callable[[Delivery], bool]) -> Delivery:
    """Return what is on record of the last call, once it is as wanted."""
    until = time.monotonic() + 30
    while not done(found := api.do(api.service.webhooks.delivery(prediction.id, "completed"))):
        assert time.monotonic() < until, found
        time.sleep(0.02)
    return found


# Signatures


def test_the_vector_of_replicates_clients_is_signed_as_there() -> None:
    # replicate-javascript index.test.ts, replicate-python tests/test_webhook.py, replicate-go webhook_test.go
    headers = signature_headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        '{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_the_official_client_and_standard_webhooks_accept_our_signature(api: ApiInProcess, receiver: Receiver) -> None:
    made = begin(api, receiver.url + "/200/signed?customer=7")
    api.update(made, status="succeeded", output="£")
    call = receiver.wait("/200/signed?customer=7", ended)[-1]
    key = api.http.get("/v1/webhooks/default/secret").json()["key"]
    assert key.startswith("whsec_")
    assert "_" not in key.removeprefix("whsec_")  # replicate-python refuses it
    assert standardwebhooks.Webhook(key).verify(call.body, call.headers)["id"] == made.id
    secret = WebhookSigningSecret(key=key)
    Webhooks.validate(headers=call.headers, body=call.body.decode(), secret=secret, tolerance=300)
    with pytest.raises(Exception, match="signature"):
        Webhooks.validate(headers=call.headers, body=call.body.decode() + " ", secret=secret)


def test_the_secret_needs_a_token(api: ApiInProcess) -> None:
    assert api.anyone.get("/v1/webhooks/default/secret").status_code == 401


# Which events


def test_by_default_outputs_and_the_end_are_told_with_what_get_answers(api: ApiInProcess, receiver: Receiver) -> None:
    made = begin(api, receiver.url + "/200/default")
    api.update(made, status="processing", logs="only logs\n")
    api.update(made, output=["a"])
    receiver.wait("/200/default", lambda calls: len(calls) == 1)
    api.update(made, status="succeeded", output=["a", "b"])
    calls = receiver.wait("/200/default", ended)
    assert [call.json["output"] for call in calls] == [["a"], ["a", "b"]]
    assert [call.json["status"] for call in calls] == ["processing", "succeeded"]
    assert calls[-1].json == api.http.get(f"/v1/predictions/{made.id}").json()
    assert calls[-1].headers["content-type"] == "application/json"
    assert TOKEN not in str(calls)


def test_start_comes_once_and_first_even_if_all_is_over_by_then(api: ApiInProcess, receiver: Receiver) -> None:
    made = begin(api, receiver.url + "/200/start", ["start", "completed"])
    api.update(made, status="processing")
    api.update(made, output="x", logs="y")
    api.update(made, status="succeeded")
    calls = receiver.wait("/200/start", lambda calls: len(calls) == 2)
    assert calls[0].headers["webhook-id"] == f"msg_{made.id}_start"
    assert [(call.json["status"], call.json["output"]) for call in calls] == [("processing", None), ("succeeded", "x")]


def test_only_what_was_asked_for_is_told(api: ApiInProcess, receiver: Receiver) -> None:
    made = begin(api, receiver.url + "/200/logs", ["logs"])
    api.update(made, status="processing", output="not this")
    api.update(made, logs="this\n")
    receiver.wait("/200/logs", lambda calls: len(calls) == 1)
    api.update(made, status="failed", error="nor this")
    other = begin(api, receiver.url + "/200/after")
    api.update(other, status="succeeded")
    receiver.wait("/200/after", ended)
    assert [call.json["logs"] for call in receiver.at("/200/logs")] == ["this\n"]


def test_one_that_is_canceled_in_the_queue_is_told(api: ApiInProcess, receiver: Receiver) -> None:
    made = api.prediction(webhook=receiver.url + "/200/queue")
    assert api.http.post(f"/v1/predictions/{made.id}/cancel").json()["status"] == "canceled"
    assert receiver.wait("/200/queue", ended)[-1].json["status"] == "canceled"


@pytest.mark.parametrize("events", [["output"], ["output", "completed"], ["logs"]])
def test_many_changes_are_few_calls_and_the_last_state_is_never_lost(
    api: ApiInProcess, receiver: Receiver, events: list[str]
) -> None:
    path = f"/200/many-{'-'.join(events)}"
    made = begin(api, receiver.url + path, events)
    before = time.monotonic()
    for count in range(1, 40):
        api.update(made, status="processing", output=list(range(count)), logs="line\n" * count)
    # with the end itself, which is no event of its own for those who asked for outputs or logs alone
    api.update(made, status="succeeded", output=list(range(40)), logs="line\n" * 40)
    calls = receiver.wait(path, ended)
    passed = calls[-1].at - before
    assert calls[-1].json["output"] == list(range(40))
    assert calls[-1].json["logs"] == "line\n" * 40
    # One at once, one each half second, and the end.
    assert len(calls) <= 2 + passed / MIN_INTERVAL
    assert len({call.headers["webhook-id"] for call in calls}) == len(calls)


def test_what_changes_within_the_half_second_is_told_after_it_without_another_change(
    api: ApiInProcess, receiver: Receiver
) -> None:
    made = begin(api, receiver.url + "/200/late", ["output"])
    api.update(made, status="processing", output=["a"])
    receiver.wait("/200/late", lambda calls: len(calls) == 1)
    api.update(made, output=["a", "b"])
    api.update(made, output=["a", "b", "c"])
    calls = receiver.wait("/200/late", lambda calls: calls[-1].json["output"] == ["a", "b", "c"])
    assert len(calls) <= 3
    assert calls[1].at - calls[0].at > MIN_INTERVAL * 0.9
    api.update(made, status="canceled")


# Receivers that do not behave


def test_the_last_call_is_repeated_with_one_id_until_it_is_taken(api: ApiInProcess, receiver: Receiver) -> None:
    made = begin(api, receiver.url + "/twice-500/x")
    api.update(made, status="succeeded")
    found = delivery(api, made, lambda found: found.delivered_at is not None)
    assert (found.attempts, found.last_status, found.error) == (3, 200, None)
    calls = receiver.at("/twice-500/x")
    assert len(calls) == 3
    assert len({call.headers["webhook-id"] for call in calls}) == 1
    key = api.http.get("/v1/webhooks/default/secret").json()["key"]
    for call in calls:
        standardwebhooks.Webhook(key).verify(call.body, call.headers)


@pytest.mark.parametrize("status", [500, 404])
def test_a_receiver_that_never_takes_it_is_given_up_and_that_is_on_record(
    api: ApiInProcess, receiver: Receiver, status: int
) -> None:
    made = begin(api, f"{receiver.url}/{status}/x")
    api.update(made, status="succeeded")
    found = delivery(api, made, lambda found: found.attempts > len(RETRY_DELAYS))
    assert (found.last_status, found.error, found.delivered_at) == (status, f"answered {status}", None)
    assert len(receiver.at(f"/{status}/x")) == 1 + len(RETRY_DELAYS)


def test_changes_on_the_way_are_told_once_whatever_comes_of_it(api: ApiInProcess, receiver: Receiver) -> None:
    made = begin(api, receiver.url + "/500/once", ["output"])
    api.update(made, status="processing", output="a")
    receiver.wait("/500/once", lambda calls: len(calls) == 1)
    api.update(made, status="succeeded")
    other = begin(api, receiver.url + "/200/then")
    api.update(other, status="succeeded")
    receiver.wait("/200/then", ended)
    assert len(receiver.at("/500/once")) == 1


def test_a_receiver_that_is_down_is_on_record(api: ApiInProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    made = begin(api, f"http://127.0.0.1:{port}/down")
    api.update(made, status="succeeded")
    found = delivery(api, made, lambda found: found.attempts > len(RETRY_DELAYS))
    assert found.last_status is None
    assert found.error is not None
    assert "ConnectError" in found.error


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_neither_followed_nor_repeated(api: ApiInProcess, receiver: Receiver, status: int) -> None:
    made = begin(api, f"{receiver.url}/{status}/x")
    api.update(made, status="succeeded")
    found = delivery(api, made, lambda found: found.attempts > 0)
    assert (found.last_status, found.delivered_at) == (status, None)
    assert found.error is not None
    assert "not followed" in found.error
    assert receiver.at("/200/redirected") == []


def test_a_slow_receiver_holds_up_neither_the_prediction_nor_other_receivers(
    api: ApiInProcess, receiver: Receiver
) -> None:
    slow = [begin(api, receiver.url + "/wait/slow") for _ in range(3)]
    for made in slow:
        api.update(made, status="processing", output="a")
    receiver.wait("/wait/slow", lambda calls: len(calls) == 3)
    for made in slow:
        api.update(made, status="succeeded")
        assert api.http.get(f"/v1/predictions/{made.id}").json()["status"] == "succeeded"
    fast = begin(api, receiver.url + "/200/fast")
    api.update(fast, status="succeeded")
    receiver.wait("/200/fast", ended)
    assert not any(ended([call]) for call in receiver.at("/wait/slow")), "the end comes after what is on its way"
    receiver.release.set()
    receiver.wait("/wait/slow", lambda calls: sum(ended([call]) for call in calls) == 3)


def test_a_receiver_that_does_not_answer_is_given_up(
    api: ApiInProcess, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.release.clear()
    monkeypatch.setattr("predictions_api.run.webhooks.RESPONSE_TIMEOUT", 0.05)
    made = begin(api, receiver.url + "/wait/for-ever")
    api.update(made, status="succeeded")
    found = delivery(api, made, lambda found: found.attempts > len(RETRY_DELAYS))
    assert found.error == "no answer within 0.05 s"
    receiver.release.set()


def test_more_calls_to_one_host_than_are_sent_at_once_all_arrive(api: ApiInProcess, receiver: Receiver) -> None:
    made = [begin(api, receiver.url + "/200/crowd") for _ in range(30)]
    for prediction in made:
        api.update(prediction, status="succeeded")
    calls = receiver.wait("/200/crowd", lambda calls: len(calls) == 30)
    assert {call.json["id"] for call in calls} == {prediction.id for prediction in made}


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",  # HTTPS is demanded
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://",
        "nonsense",
        "",
        "https://exa\nmple.com/",
        "https://example.com/\ud800",
        "https://xn--/",
        "https://example.com:99999/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data/",  # where clouds keep a machine's credentials
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://[::]/",
        "https://[fd00::1]/",
        "https://[fe80::1]/",
        "https://[::ffff:10.0.0.1]/",  # IPv4 within IPv6
        "https://[64:ff9b::a00:1]/",  # RFC 6052
        "https://[2002:a00:1::]/",  # RFC 3056
        "https://167772161/",  # 10.0.0.1 as one number, as inet_aton reads it
        "https://0xa.0.0.1/",
        "https://012.0.0.1/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://internal.test/",
        "https://one-of-two.test/",
        "http://public.test/",
    ],
)
def test_no_webhook_goes_to_addresses_that_only_the_server_can_reach(
    api: ApiInProcess, names: dict[str, list[str]], url: str
) -> None:
    with pytest.raises(Problem) as caught:
        api.do(api.service.webhooks.check_url(url))
    assert caught.value.status == 422
    assert caught.value.fields["invalid_fields"][0]["field"] == "webhook"


@pytest.mark.parametrize(
    "url",
    [
        "https://public.test/hook?a=b",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]:8443/",
        "http://127.0.0.1:3000/",
        "http://localhost/",
        "http://[::1]/",
        "https://cannot-be-resolved.test/",
    ],
)
def test_public_addresses_and_this_machine_itself_may_be_told(
    api: ApiInProcess, names: dict[str, list[str]], url: str
) -> None:
    api.do(api.service.webhooks.check_url(url))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names under .test (RFC 6761) and their addresses; the rest is the system's business."""
    known = {
        "public.test": ["93.184.215.14"],
        "internal.test": ["10.0.0.5"],
        "one-of-two.test": ["93.184.215.14", "10.0.0.5"],
        "here.test": ["127.0.0.1"],
    }
    ask = socket.getaddrinfo

    def answer(host: Any, *rest: Any, **more: Any) -> Any:
        if not str(host).endswith(".test"):
            return ask(host, *rest, **more)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known


def test_private_addresses_are_allowed_where_the_server_was_told_so() -> None:
    for scheme in ("https", "http"):
        assert address_fault("h", scheme, ["10.0.0.5"], private=True) is None
        assert address_fault("h", scheme, ["10.0.0.5"], private=False) is not None
        assert address_fault("h", scheme, ["224.0.0.1"], private=True) is not None
    assert address_fault("h", "http", ["93.184.215.14"], private=True) is not None


def test_a_name_that_points_elsewhere_by_the_time_of_the_call_gains_nothing(
    api: ApiInProcess, names: dict[str, list[str]]
) -> None:
    url = "https://public.test/"
    api.do(api.service.webhooks.check_url(url))
    names["public.test"] = ["10.0.0.5"]
    made = begin(api, url)
    api.update(made, status="succeeded")
    found = delivery(api, made, lambda found: found.attempts > len(RETRY_DELAYS))
    assert found.error is not None
    assert found.error.startswith("ForbiddenAddress: public.test is at 10.0.0.5")


def test_the_certificate_is_checked_against_the_name_though_the_call_goes_to_an_address(
    names: dict[str, list[str]], tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=here.test", "-addext", "subjectAltName=DNS:here.test"]
    command = [needs("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    receiver = Receiver(serving)
    names["other.test"] = ["127.0.0.1"]

    async def post(host: str) -> int:
        resolver = Resolver()
        transport = CheckedTransport(resolver, private=False, verify=ssl.create_default_context(cafile=certificate))
        async with httpx.AsyncClient(transport=transport) as client:
            answer = await client.post(f"https://{host}:{receiver.port}/200/tls", content=b"{}")
        resolver.close()
        return answer.status_code

    try:
        assert asyncio.run(post("here.test")) == 200
        assert receiver.at("/200/tls")[0].headers["host"] == f"here.test:{receiver.port}"
        with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
            asyncio.run(post("other.test"))
    finally:
        receiver.close()


# The server's own end


def record(directory: Path, **members: Any) -> Prediction:
    """Record a prediction in the database of a server that does not run."""

    async def add() -> Prediction:
        (directory / "data").mkdir(parents=True, exist_ok=True)
        database = Database(f"sqlite:///{directory / 'data' / 'predictions.sqlite'}")
        await database.open()
        made = Prediction(new_id(), now(), "test/gone", "0" * 64, {}, random_key(), **members)
        await Records(database).add(made, queue_limit=10)
        await database.close()
        return made

    return asyncio.run(add())


def attempts(directory: Path) -> list[Any]:
    """Return what the table of deliveries of a server that runs has."""
    with contextlib.closing(sqlite3.connect(directory / "data" / "predictions.sqlite")) as database:
        return database.execute("SELECT attempts FROM deliveries").fetchall()


def test_a_server_that_ends_between_two_tries_goes_on_after_its_start(tmp_path: Path, receiver: Receiver) -> None:
    made = record(tmp_path, webhook=receiver.url + "/500/ends")
    with ApiServer(tmp_path, models=(), webhook_retry_delays=[3600.0, 3600.0]) as server:
        server.http.post(f"/predictions/{made.id}/cancel").raise_for_status()
        for tries, sign in enumerate((signal.SIGKILL, signal.SIGTERM), start=1):
            until = time.monotonic() + 60
            while attempts(tmp_path) != [(tries,)]:
                assert time.monotonic() < until, attempts(tmp_path)
                time.sleep(0.02)
            server.stop(sign)
            server.config.write_text(server.config.read_text().replace("3600.0", "0.0", 1))
            server.start()
        calls = receiver.wait("/500/ends", lambda calls: len(calls) == 3)
    assert len({call.headers["webhook-id"] for call in calls}) == 1


def test_an_end_that_was_not_told_when_the_server_died_is_told_by_the_next(tmp_path: Path, receiver: Receiver) -> None:
    made = record(tmp_path, webhook=receiver.url + "/200/untold", status="succeeded", completed_at=now())
    with ApiServer(tmp_path, models=()):
        assert receiver.wait("/200/untold", ended)[-1].json["id"] == made.id
