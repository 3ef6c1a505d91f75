"""The client of Cog, with Cog's own server and with recorded payloads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from predictions_api.run import cog_client
from predictions_api.run.cog_client import (
    Busy,
    CogClient,
    InvalidInputs,
    Progress,
    Unreachable,
    parse_progress,
    split_progress_lines,
    strip_error_prefixes,
)
from webhook_receiver import WebhookReceiver

# Recorded from coglet 0.23.1. The model shows a tqdm bar (shortened here) and returns one file.
BARS = "\r  0%|     | 0/2 [00:00<?, ?it/s]\r 50%|##   | 1/2 [00:00<00:00]\r100%|#####| 2/2 [00:01<00:00]\n"
RUNNING = {"id": "a", "logs": BARS[:60], "metrics": {}, "status": "processing"}
ALMOST = {"id": "a", "logs": BARS, "metrics": {}, "output": ["data:video/mp4;base64,YWJj"], "status": "processing"}
DONE = {
    "id": "a",
    "logs": BARS,
    "metrics": {"predict_time": 1.3187},
    "output": "data:video/mp4;base64,YWJj",
    "status": "succeeded",
}
FAILED = {
    "error": "Prediction failed: Prediction failed: ValueError: boom\nline two",
    "id": "f",
    "logs": BARS,
    "metrics": {"predict_time": 0.3},
    "status": "failed",
}


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


def wait_for_end(receiver: WebhookReceiver) -> Progress:
    """Return the progress of a prediction from all its webhooks, once it has ended."""
    progress = Progress()
    while not progress.has_ended:
        progress = progress.with_later(parse_progress(receiver.next().json, streams=False))
    return progress


def use(url: str, work: Callable[[CogClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with httpx.AsyncClient() as client:
            return await work(CogClient(url, client))

    return asyncio.run(run())


def test_a_running_prediction_is_not_started_twice_and_another_is_refused(
    cog: str, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cog_client, "_SLOT_TIMEOUT", 0.2)

    async def work(server: CogClient) -> None:
        assert await server.start("three", {"sleep": 60, "steps": 600}, receiver.url)
        assert await server.health() == "BUSY"
        assert not await server.start("three", {"sleep": 60, "steps": 600}, receiver.url)
        with pytest.raises(Busy):
            await server.start("four", {}, receiver.url)
        while not await server.cancel("three"):
            pass

    use(cog, work)
    assert wait_for_end(receiver).status == "canceled"


def test_cancel_returns_false_for_a_prediction_that_is_not_running(cog: str) -> None:
    assert use(cog, lambda server: server.cancel("unknown")) is False


def test_inputs_that_cog_refuses_are_named(cog: str, receiver: WebhookReceiver) -> None:
    with pytest.raises(InvalidInputs, match=r"^sleep: -1 is less than the minimum of 0$"):
        use(cog, lambda server: server.start("six", {"sleep": -1}, receiver.url))


def test_a_server_has_a_schema_and_a_version(cog: str) -> None:
    schema = use(cog, lambda server: server.schema())
    assert "text" in schema["components"]["schemas"]["Input"]["properties"]
    assert use(cog, lambda server: server.cog_version()) == "0.23.1"  # pyproject.toml's


def test_a_refused_connection_is_gone_and_unreachable(receiver: WebhookReceiver) -> None:
    nowhere = "http://127.0.0.1:9"
    assert use(nowhere, lambda server: server.health()) == "GONE"
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9 does not answer"):
        use(nowhere, lambda server: server.start("seven", {}, receiver.url))


def test_a_server_that_is_not_cogs_is_unreachable(receiver: WebhookReceiver) -> None:
    with pytest.raises(Unreachable, match="501"):  # http.server's answer to an unsupported method
        use(receiver.url, lambda server: server.start("eight", {}, receiver.url))


def test_a_single_output_is_read_at_the_end_only() -> None:
    # Until then Cog sends it in a list.
    assert parse_progress(ALMOST, streams=False).output is None
    assert parse_progress(DONE, streams=False).output == "data:video/mp4;base64,YWJj"


def test_the_outputs_of_an_iterator_are_read_while_it_runs() -> None:
    assert parse_progress(ALMOST, streams=True).output == ["data:video/mp4;base64,YWJj"]


def test_webhooks_in_any_order_give_the_same_progress() -> None:
    reports = [parse_progress(payload, streams=False) for payload in (RUNNING, ALMOST, DONE)]
    for order in ((0, 1, 2), (2, 0, 1), (1, 0, 2), (2, 1, 0), (2,)):
        progress = Progress()
        for index in order:
            progress = progress.with_later(reports[index])
        assert progress == reports[2]


def test_shorter_logs_that_arrive_later_do_not_replace_longer_ones() -> None:
    early, late = parse_progress(RUNNING, streams=True), parse_progress(ALMOST, streams=True)
    assert late.with_later(early) == early.with_later(late) == late


def test_a_failure_keeps_the_outputs_before_it() -> None:
    progress = parse_progress(ALMOST, streams=True).with_later(parse_progress(FAILED, streams=True))
    assert (progress.status, progress.output) == ("failed", ["data:video/mp4;base64,YWJj"])
    assert progress.error == "ValueError: boom\nline two"


@pytest.mark.parametrize(
    "payload",
    [{}, {"status": "done"}, {"status": "failed", "logs": ["a"]}, {"status": "succeeded", "metrics": 1}],
)
def test_an_invalid_webhook_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not that of a Cog webhook"):
        parse_progress(payload, streams=False)


def test_only_the_prefixes_of_an_error_are_removed() -> None:
    assert strip_error_prefixes("Prediction failed: Generator iteration error: ValueError: x") == "ValueError: x"
    assert strip_error_prefixes("ValueError: Prediction failed: x") == "ValueError: Prediction failed: x"


def test_the_lines_of_longer_logs_start_with_those_of_shorter_ones() -> None:
    logs = "start\r\n" + BARS + "a\r\r\nb\n\r c"
    for end in range(len(logs)):
        assert split_progress_lines(logs).startswith(split_progress_lines(logs[:end]))


def test_logs_without_carriage_returns_are_unchanged() -> None:
    assert split_progress_lines("a\n\n  b\n") == "a\n\n  b\n"
