"""Specification of the client of Cog: against Cog's own server, and against payloads that one has sent."""

from __future__ import annotations

import asyncio
import http.server
import json
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from api_server import CogProcess
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
from replicate.prediction import Prediction

# Sent by coglet 0.23.1 for a model that shows a bar of tqdm's and returns one file; the bars are shortened.
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


@pytest.fixture(scope="module")
def model() -> Iterator[CogProcess]:
    with CogProcess("text") as process:
        yield process


class Receiver:
    """What webhooks are sent to; `told` has their bodies in the order of their coming."""

    def __init__(self) -> None:
        self.told: queue.Queue[dict[str, Any]] = queue.Queue()
        told = self.told

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def until_ended(self) -> Progress:
        """Return all that was told, put together, at the end of a prediction."""
        known = Progress()
        while not known.has_ended:
            known = known.with_later(parse_progress(self.told.get(timeout=60), streams=False))
        return known


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def use(url: str, work: Callable[[CogClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with httpx.AsyncClient() as client:
            return await work(CogClient(url, client))

    return asyncio.run(run())


def test_a_predictions_progress_comes_to_its_webhook(model: CogProcess, receiver: Receiver) -> None:
    inputs = {"text": "hello", "sleep": 0.2, "steps": 2}
    assert use(model.url, lambda server: server.start("one", inputs, receiver.url)) is True
    known = receiver.until_ended()
    assert (known.status, known.output, known.error) == ("succeeded", "hello", None)
    assert known.logs.splitlines()[0] == "text: hello"
    assert [line[:5] for line in known.logs.splitlines()[1:]] == [" 50%|", "100%|"]
    assert known.metrics["predict_time"] >= 0.2


def test_a_failure_is_told_in_the_models_own_words(model: CogProcess, receiver: Receiver) -> None:
    use(model.url, lambda server: server.start("two", {"end": "fail"}, receiver.url))
    known = receiver.until_ended()
    assert (known.status, known.error) == ("failed", "ValueError: told to fail")
    assert known.logs == "text: hello\n"


def test_a_running_prediction_is_not_started_twice_and_lets_no_other_in(
    model: CogProcess, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
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

    use(model.url, work)
    assert receiver.until_ended().status == "canceled"


def test_one_prediction_after_the_other_is_never_refused(model: CogProcess, receiver: Receiver) -> None:
    # Cog tells an end a moment before it has room for the next.
    for number in range(5):
        use(model.url, lambda server, number=number: server.start(f"five-{number}", {}, receiver.url))
        assert receiver.until_ended().status == "succeeded"


def test_what_does_not_run_cannot_be_cancelled(model: CogProcess) -> None:
    assert use(model.url, lambda server: server.cancel("nobody")) is False


def test_inputs_that_cog_refuses_are_told_by_name(model: CogProcess, receiver: Receiver) -> None:
    with pytest.raises(InvalidInputs, match=r"^sleep: -1 is less than the minimum of 0$"):
        use(model.url, lambda server: server.start("six", {"sleep": -1}, receiver.url))


def test_a_server_tells_its_schema_and_version(model: CogProcess) -> None:
    schema = use(model.url, lambda server: server.schema())
    assert "text" in schema["components"]["schemas"]["Input"]["properties"]
    assert use(model.url, lambda server: server.cog_version()) == "0.23.1"  # pyproject.toml's


def test_nothing_listening_is_told(receiver: Receiver) -> None:
    nowhere = "http://127.0.0.1:9"
    assert use(nowhere, lambda server: server.health()) == "GONE"
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9 does not answer"):
        use(nowhere, lambda server: server.start("seven", {}, receiver.url))


def test_something_else_listening_is_told(receiver: Receiver) -> None:
    with pytest.raises(Unreachable, match="501"):  # http.server's answer to a method that it does not know
        use(receiver.url, lambda server: server.start("eight", {}, receiver.url))


def test_a_single_output_counts_at_the_end_alone() -> None:
    # Before the end Cog puts it into a list.
    assert parse_progress(ALMOST, streams=False).output is None
    assert parse_progress(DONE, streams=False).output == "data:video/mp4;base64,YWJj"


def test_an_iterators_outputs_count_as_they_come() -> None:
    assert parse_progress(ALMOST, streams=True).output == ["data:video/mp4;base64,YWJj"]


def test_webhooks_in_any_order_give_the_same() -> None:
    told = [parse_progress(payload, streams=False) for payload in (RUNNING, ALMOST, DONE)]
    for order in ((0, 1, 2), (2, 0, 1), (1, 0, 2), (2, 1, 0), (2,)):
        known = Progress()
        for index in order:
            known = known.with_later(told[index])
        assert known == told[2]


def test_what_overtook_the_longer_logs_takes_nothing_away() -> None:
    early, late = parse_progress(RUNNING, streams=True), parse_progress(ALMOST, streams=True)
    assert late.with_later(early) == early.with_later(late) == late


def test_a_failure_keeps_the_outputs_that_had_come() -> None:
    known = parse_progress(ALMOST, streams=True).with_later(parse_progress(FAILED, streams=True))
    assert (known.status, known.output) == ("failed", ["data:video/mp4;base64,YWJj"])
    assert known.error == "ValueError: boom\nline two"


@pytest.mark.parametrize(
    "payload",
    [{}, {"status": "done"}, {"status": "failed", "logs": ["a"]}, {"status": "succeeded", "metrics": 1}],
)
def test_what_cog_does_not_send_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no webhook of Cog's"):
        parse_progress(payload, streams=False)


def test_the_prefixes_of_an_error_are_taken_off_and_nothing_else() -> None:
    assert strip_error_prefixes("Prediction failed: Generator iteration error: ValueError: x") == "ValueError: x"
    assert strip_error_prefixes("ValueError: Prediction failed: x") == "ValueError: Prediction failed: x"


def test_the_official_client_finds_the_last_progress_in_the_logs() -> None:
    for end, current in ((36, 0), (76, 1), (len(BARS), 2)):
        progress = Prediction.Progress.parse(split_progress_lines(BARS[:end]))
        assert progress is not None
        assert (progress.current, progress.total) == (current, 2)


def test_logs_that_grow_stay_the_beginning_of_themselves() -> None:
    logs = "start\r\n" + BARS + "a\r\r\nb\n\r c"
    for end in range(len(logs)):
        assert split_progress_lines(logs).startswith(split_progress_lines(logs[:end]))


def test_lines_without_returns_are_left_alone() -> None:
    assert split_progress_lines("a\n\n  b\n") == "a\n\n  b\n"
