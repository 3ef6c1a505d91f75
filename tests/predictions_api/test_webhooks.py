"""Webhooks: content, signatures, frequency, retries, and which addresses are allowed."""

from __future__ import annotations

import asyncio
import re
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks
from api_in_process import RETRY_DELAYS, TOKEN, ApiInProcess
from api_names import resolve
from api_server import VERSIONS, ApiServer, wait_until
from ports import free_port
from predictions_api.errors import Problem
from predictions_api.run.addresses import AddressRules, CheckedTransport, Resolver
from predictions_api.run.webhooks import MIN_INTERVAL, Delivery, signature_headers
from predictions_api.store.database import Database, now, random_key
from predictions_api.store.predictions import Prediction, new_id
from predictions_api.store.records import Records
from programs import needs
from webhook_receiver import Call, WebhookReceiver


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("predictions_api.run.webhooks.RESPONSE_TIMEOUT", 60.0)  # of the receivers here, on a busy machine
        with ApiInProcess(tmp_path_factory.mktemp("api"), tokens=()) as running:  # so that loopback is allowed
            yield running


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


def begin(api: ApiInProcess, url: str, events: list[str] | None = None) -> Prediction:
    """Record a prediction that has a webhook and that a Cog server runs."""
    prediction = api.add_prediction(webhook=url, webhook_events_filter=events)
    api.run(api.service.records.begin_attempt(prediction.id, worker="http://cog", callback_key=prediction.callback_key))
    return prediction


def has_end(calls: list[Call]) -> bool:
    return bool(calls) and calls[-1].json["status"] in ("succeeded", "failed", "canceled", "aborted")


def deliver_end(api: ApiInProcess, url: str, *, attempts: int = 1 + len(RETRY_DELAYS)) -> Delivery:
    """Return the record of the calls for the end of a prediction, once there were this many attempts."""
    prediction = begin(api, url)
    api.update(prediction, status="succeeded")

    def delivery() -> Delivery:
        return api.run(api.service.webhooks.delivery(prediction.id, "completed"))

    wait_until(lambda: delivery().attempts >= attempts)
    return delivery()


# Signatures


def test_the_test_vector_of_replicates_clients_gets_the_same_signature() -> None:
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


def test_standard_webhooks_accept_our_signature(api: ApiInProcess, receiver: WebhookReceiver) -> None:
    prediction = begin(api, receiver.url + "/200/signed?customer=7")
    api.update(prediction, status="succeeded", output="£")
    call = receiver.wait_for("/200/signed?customer=7", has_end)[-1]
    key = api.http.get("/v1/webhooks/default/secret").json()["key"]
    assert key.startswith("whsec_")
    assert "_" not in key.removeprefix("whsec_")  # replicate-python refuses an underscore
    assert standardwebhooks.Webhook(key).verify(call.body, call.headers)["id"] == prediction.id


# Which events


def test_the_default_events_are_output_and_completed_with_the_body_of_get(
    api: ApiInProcess, receiver: WebhookReceiver
) -> None:
    prediction = begin(api, receiver.url + "/200/default")
    api.update(prediction, status="processing", logs="only logs\n")
    api.update(prediction, output=["a"])
    receiver.wait_for("/200/default", lambda calls: len(calls) == 1)
    api.update(prediction, status="succeeded", output=["a", "b"])
    calls = receiver.wait_for("/200/default", has_end)
    assert [call.json["output"] for call in calls] == [["a"], ["a", "b"]]
    assert [call.json["status"] for call in calls] == ["processing", "succeeded"]
    assert calls[-1].json == api.http.get(f"/v1/predictions/{prediction.id}").json()
    assert calls[-1].headers["content-type"] == "application/json"
    assert TOKEN not in str(calls)


def test_start_is_sent_once_and_first_even_if_the_prediction_has_ended(
    api: ApiInProcess, receiver: WebhookReceiver
) -> None:
    prediction = begin(api, receiver.url + "/200/start", ["start", "completed"])
    api.update(prediction, status="processing")
    api.update(prediction, output="x", logs="y")
    api.update(prediction, status="succeeded")
    calls = receiver.wait_for("/200/start", lambda calls: len(calls) == 2)
    assert calls[0].headers["webhook-id"] == f"msg_{prediction.id}_start"
    assert [(call.json["status"], call.json["output"]) for call in calls] == [("processing", None), ("succeeded", "x")]


def test_only_the_requested_events_are_sent(api: ApiInProcess, receiver: WebhookReceiver) -> None:
    prediction = begin(api, receiver.url + "/200/logs", ["logs"])
    api.update(prediction, status="processing", output="not this")
    api.update(prediction, logs="this\n")
    receiver.wait_for("/200/logs", lambda calls: len(calls) == 1)
    api.update(prediction, status="failed", error="nor this")
    other = begin(api, receiver.url + "/200/after")
    api.update(other, status="succeeded")
    receiver.wait_for("/200/after", has_end)
    assert [call.json["logs"] for call in receiver.calls("/200/logs")] == ["this\n"]


def test_a_prediction_canceled_in_the_queue_sends_completed(api: ApiInProcess, receiver: WebhookReceiver) -> None:
    prediction = api.add_prediction(webhook=receiver.url + "/200/queue")
    assert api.http.post(f"/v1/predictions/{prediction.id}/cancel").json()["status"] == "canceled"
    assert receiver.wait_for("/200/queue", has_end)[-1].json["status"] == "canceled"


@pytest.mark.parametrize("events", [["output"], ["output", "completed"], ["logs"]])
def test_many_changes_are_few_calls_and_the_last_state_is_always_sent(
    api: ApiInProcess, receiver: WebhookReceiver, events: list[str]
) -> None:
    path = f"/200/many-{'-'.join(events)}"
    prediction = begin(api, receiver.url + path, events)
    before = time.monotonic()
    for count in range(1, 40):
        api.update(prediction, status="processing", output=list(range(count)), logs="line\n" * count)
    # The end is sent in an output or logs event if completed was not requested.
    api.update(prediction, status="succeeded", output=list(range(40)), logs="line\n" * 40)
    calls = receiver.wait_for(path, has_end)
    seconds = calls[-1].time - before
    assert calls[-1].json["output"] == list(range(40))
    assert calls[-1].json["logs"] == "line\n" * 40
    # One immediately, one every half second, and one at the end.
    assert len(calls) <= 2 + seconds / MIN_INTERVAL
    assert len({call.headers["webhook-id"] for call in calls}) == len(calls)


def test_a_change_within_half_a_second_of_a_call_is_sent_after_it(api: ApiInProcess, receiver: WebhookReceiver) -> None:
    assert MIN_INTERVAL == 0.5
    prediction = begin(api, receiver.url + "/200/late", ["output"])
    api.update(prediction, status="processing", output=["a"])
    receiver.wait_for("/200/late", lambda calls: len(calls) == 1)
    api.update(prediction, output=["a", "b"])
    api.update(prediction, output=["a", "b", "c"])
    calls = receiver.wait_for("/200/late", lambda calls: calls[-1].json["output"] == ["a", "b", "c"])
    assert len(calls) <= 3
    api.update(prediction, status="canceled")


def test_a_change_within_the_interval_after_a_call_waits_for_its_end(
    api: ApiInProcess, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("predictions_api.run.webhooks.MIN_INTERVAL", 3600.0)
    prediction = begin(api, receiver.url + "/200/waits", ["output", "completed"])
    api.update(prediction, status="processing", output=["a"])
    receiver.wait_for("/200/waits", lambda calls: len(calls) == 1)
    api.update(prediction, output=["a", "b"])
    api.update(prediction, status="succeeded")
    calls = receiver.wait_for("/200/waits", has_end)
    assert [(call.json["status"], call.json["output"]) for call in calls] == [
        ("processing", ["a"]),
        ("succeeded", ["a", "b"]),
    ]


# Failing receivers


def test_completed_is_repeated_with_the_same_id_until_it_is_answered_2xx(
    api: ApiInProcess, receiver: WebhookReceiver
) -> None:
    delivery = deliver_end(api, receiver.url + "/twice-500/x", attempts=3)
    assert (delivery.attempts, delivery.last_status, delivery.error) == (3, 200, None)
    assert delivery.delivered_at is not None
    calls = receiver.calls("/twice-500/x")
    assert len(calls) == 3
    assert len({call.headers["webhook-id"] for call in calls}) == 1
    key = api.http.get("/v1/webhooks/default/secret").json()["key"]
    for call in calls:
        standardwebhooks.Webhook(key).verify(call.body, call.headers)


@pytest.mark.parametrize("status", [500, 404])
def test_completed_is_abandoned_after_the_last_delay_and_the_error_is_recorded(
    api: ApiInProcess, receiver: WebhookReceiver, status: int
) -> None:
    delivery = deliver_end(api, f"{receiver.url}/{status}/x")
    assert (delivery.last_status, delivery.error, delivery.delivered_at) == (status, f"answered {status}", None)
    assert len(receiver.calls(f"/{status}/x")) == 1 + len(RETRY_DELAYS)


def test_an_output_event_is_not_repeated_if_it_fails(api: ApiInProcess, receiver: WebhookReceiver) -> None:
    prediction = begin(api, receiver.url + "/500/once", ["output"])
    api.update(prediction, status="processing", output="a")
    receiver.wait_for("/500/once", lambda calls: len(calls) == 1)
    api.update(prediction, status="succeeded")
    other = begin(api, receiver.url + "/200/then")
    api.update(other, status="succeeded")
    receiver.wait_for("/200/then", has_end)
    assert len(receiver.calls("/500/once")) == 1


def test_a_refused_connection_is_recorded(api: ApiInProcess) -> None:
    delivery = deliver_end(api, f"http://127.0.0.1:{free_port()}/down")
    assert delivery.last_status is None
    assert "ConnectError" in str(delivery.error)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_neither_followed_nor_repeated(api: ApiInProcess, receiver: WebhookReceiver, status: int) -> None:
    delivery = deliver_end(api, f"{receiver.url}/{status}/x", attempts=1)
    assert (delivery.last_status, delivery.delivered_at) == (status, None)
    assert "not followed" in str(delivery.error)
    assert receiver.calls("/200/redirected") == []


def test_a_slow_receiver_delays_neither_its_prediction_nor_other_receivers(
    api: ApiInProcess, receiver: WebhookReceiver
) -> None:
    slow = [begin(api, receiver.url + "/wait/slow") for _ in range(3)]
    for prediction in slow:
        api.update(prediction, status="processing", output="a")
    receiver.wait_for("/wait/slow", lambda calls: len(calls) == 3)
    for prediction in slow:
        api.update(prediction, status="succeeded")
        assert api.http.get(f"/v1/predictions/{prediction.id}").json()["status"] == "succeeded"
    fast = begin(api, receiver.url + "/200/fast")
    api.update(fast, status="succeeded")
    receiver.wait_for("/200/fast", has_end)
    assert not any(has_end([call]) for call in receiver.calls("/wait/slow")), "completed waits for the call before it"
    receiver.release.set()
    receiver.wait_for("/wait/slow", lambda calls: sum(has_end([call]) for call in calls) == 3)


def test_a_receiver_that_does_not_answer_times_out(
    api: ApiInProcess, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.release.clear()
    monkeypatch.setattr("predictions_api.run.webhooks.RESPONSE_TIMEOUT", 0.05)
    assert deliver_end(api, receiver.url + "/wait/forever").error == "no answer within 0.05 s"
    receiver.release.set()


def test_more_simultaneous_calls_than_the_limit_per_host_all_arrive(
    api: ApiInProcess, receiver: WebhookReceiver
) -> None:
    predictions = [begin(api, receiver.url + "/200/crowd") for _ in range(30)]
    for prediction in predictions:
        api.update(prediction, status="succeeded")
    calls = receiver.wait_for("/200/crowd", lambda calls: len(calls) == 30)
    assert {call.json["id"] for call in calls} == {prediction.id for prediction in predictions}


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",  # HTTPS is required
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
        "https://169.254.169.254/latest/meta-data/",  # where clouds serve a machine's credentials
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
        "http://unknown.test/",
    ],
)
def test_a_webhook_url_with_a_private_or_invalid_address_is_refused(
    api: ApiInProcess, names: dict[str, list[str]], url: str
) -> None:
    with pytest.raises(Problem) as caught:
        api.run(api.service.webhooks.check_url(url))
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
def test_public_and_loopback_addresses_are_allowed(api: ApiInProcess, names: dict[str, list[str]], url: str) -> None:
    api.run(api.service.webhooks.check_url(url))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Return names and their addresses, which this process then resolves."""
    addresses = {
        "public.test": ["93.184.215.14"],
        "internal.test": ["10.0.0.5"],
        "one-of-two.test": ["93.184.215.14", "10.0.0.5"],
        "here.test": ["127.0.0.1"],
    }
    resolve(monkeypatch, addresses)
    return addresses


def fault(url: str, address: str, servers: tuple[str, ...] = (), **members: Any) -> str | None:
    """Return why webhooks to a URL whose host has this address are refused, or None."""
    resolver = Resolver()
    rules = AddressRules("webhooks", "--flag", resolver, needs_https=True, servers=lambda: servers, **members)
    try:
        return asyncio.run(rules.fault(httpx.URL(url), [address]))
    finally:
        resolver.close()


def test_private_addresses_are_allowed_if_the_setting_says_so() -> None:
    for url in ("https://h/", "http://h/"):
        assert fault(url, "10.0.0.5", allow_private=True) is None
        assert fault(url, "10.0.0.5") is not None
        assert fault(url, "224.0.0.1", allow_private=True) is not None
    assert fault("http://h/", "93.184.215.14", allow_private=True) is not None


@pytest.mark.parametrize(
    "settings", [{"token": "secret"}, {"token": None, "public_url": "http://api.test"}], ids=["token", "public URL"]
)
def test_loopback_is_private_for_a_server_that_others_can_reach(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings |= {"port": free_port(), "allow_private_webhooks": False}
    with ApiServer(tmp_path, models=["text"], **settings) as server:
        body = {"version": VERSIONS["text"], "input": {}, "webhook": "http://127.0.0.1:3000/"}
        answer = server.http.post("/predictions", json=body)
    assert answer.status_code == 422
    assert "--allow-private-webhooks" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("server", "url", "address"),
    [
        ("http://127.0.0.1:5000", "http://localhost:5000/shutdown", "127.0.0.1"),
        ("http://127.0.0.1:5000", "http://h:5000/", "127.8.9.10"),
        ("http://127.0.0.1:5000", "http://h:5000/", "0.0.0.0"),
        ("http://127.0.0.1:5000", "http://h:5000/", "::1"),
        ("http://127.0.0.1:5000", "http://h:5000/", "::ffff:127.0.0.1"),
        ("http://10.0.0.7:5000", "http://h:5000/", "10.0.0.7"),
        ("http://93.184.215.14", "https://h:80/", "93.184.215.14"),
    ],
)
def test_the_ports_of_cog_servers_are_never_allowed(server: str, url: str, address: str) -> None:
    members = {"allow_private": True, "allow_loopback": True}
    assert "belongs to this server or to one of its Cog servers" in str(fault(url, address, (server,), **members))
    assert fault(url.replace(":5000", ":5001").replace(":80/", ":81/"), address, (server,), **members) is None
    assert fault(url, "10.0.0.8", (server,), **members) is None, "another machine may use the same port"


def test_a_webhook_to_the_server_itself_is_refused(api: ApiInProcess) -> None:
    with pytest.raises(Problem, match="belongs to this server"):
        api.run(api.service.webhooks.check_url(api.url + "/v1/predictions"))


def test_a_webhook_cannot_stop_a_cog_server(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text"], token=None) as server:
        assert server.create("text", wait=True)["status"] == "succeeded"
        cog_url = re.findall(r"is ready at (http://\S+?)\"", server.log.read_text())[0]
        body = {"version": VERSIONS["text"], "input": {}, "webhook": f"{cog_url}/shutdown"}
        answer = server.http.post("/predictions", json=body)
        assert answer.status_code == 422
        assert answer.json()["invalid_fields"][0]["field"] == "webhook"
        # It may be busy for a moment after the end of its prediction.
        wait_until(lambda: httpx.get(f"{cog_url}/health-check", timeout=60).json()["status"] == "READY")


def test_a_name_that_resolves_to_a_private_address_at_the_call_is_refused(
    api: ApiInProcess, names: dict[str, list[str]]
) -> None:
    url = "https://public.test/"
    api.run(api.service.webhooks.check_url(url))
    names["public.test"] = ["10.0.0.5"]
    assert str(deliver_end(api, url).error).startswith("ForbiddenAddress: public.test is at 10.0.0.5")


def test_the_certificate_is_checked_against_the_name_in_the_url(names: dict[str, list[str]], tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=here.test", "-addext", "subjectAltName=DNS:here.test"]
    command = [needs("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    names["other.test"] = ["127.0.0.1"]

    async def post(receiver: WebhookReceiver, host: str) -> int:
        resolver = Resolver()
        context = ssl.create_default_context(cafile=certificate)
        transport = CheckedTransport(AddressRules("webhooks", "", resolver, allow_loopback=True), verify=context)
        async with httpx.AsyncClient(transport=transport, timeout=60) as client:
            answer = await client.post(f"https://{host}:{receiver.port}/200/tls", content=b"{}")
        resolver.close()
        return answer.status_code

    with WebhookReceiver(tls) as receiver:
        assert asyncio.run(post(receiver, "here.test")) == 200
        assert receiver.calls("/200/tls")[0].headers["host"] == f"here.test:{receiver.port}"
        with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
            asyncio.run(post(receiver, "other.test"))


# Restarts


def record(directory: Path, **members: Any) -> Prediction:
    """Record a prediction in the database of a server that is not running."""

    async def add() -> Prediction:
        (directory / "data").mkdir(parents=True, exist_ok=True)
        database = Database(f"sqlite:///{directory / 'data' / 'predictions.sqlite'}")
        await database.open()
        prediction = Prediction(new_id(), now(), "test/gone", "0" * 64, {}, random_key(), **members)
        await Records(database).add(prediction, queue_limit=10)
        await database.close()
        return prediction

    return asyncio.run(add())


def test_attempts_continue_after_a_restart(tmp_path: Path, receiver: WebhookReceiver) -> None:
    prediction = record(tmp_path, webhook=receiver.url + "/500/ends")
    with ApiServer(tmp_path, models=(), webhook_retry_delays=[3600.0, 3600.0]) as server:
        server.http.post(f"/predictions/{prediction.id}/cancel").raise_for_status()
        for count, sign in enumerate((signal.SIGKILL, signal.SIGTERM), start=1):
            wait_until(lambda count=count: server.execute("SELECT attempts FROM deliveries") == [(count,)])
            server.stop(sign)
            server.config.write_text(server.config.read_text().replace("3600.0", "0.0", 1))
            server.start()
        calls = receiver.wait_for("/500/ends", lambda calls: len(calls) == 3)
    assert len({call.headers["webhook-id"] for call in calls}) == 1


def test_completed_is_sent_after_a_restart_if_it_was_not_sent_before(tmp_path: Path, receiver: WebhookReceiver) -> None:
    prediction = record(tmp_path, webhook=receiver.url + "/200/unsent", status="succeeded", completed_at=now())
    with ApiServer(tmp_path, models=()):
        assert receiver.wait_for("/200/unsent", has_end)[-1].json["id"] == prediction.id
