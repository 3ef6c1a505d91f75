"""Streams: what the official Python client's own decoder makes of them, resuming, and who may read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import replicate
from api_in_process import TOKEN, ApiInProcess
from predictions_api.http.streams import format_event
from predictions_api.run.upkeep import remove_data
from predictions_api.store.database import random_key
from predictions_api.store.predictions import Prediction
from predictions_api.store.records import RESTART_NOTICE, Event
from replicate.stream import EventSource, ServerSentEvent

CLIENT = replicate.Client(api_token=TOKEN)  # asks nothing here: it is the decoder's


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    with ApiInProcess(tmp_path_factory.mktemp("streams")) as running:
        yield running


@pytest.fixture
def running(api: ApiInProcess) -> Prediction:
    return api.prediction(stream_key=random_key(), status="processing")


def read(api: ApiInProcess, prediction: Prediction, **headers: str) -> list[ServerSentEvent]:
    """Read a stream to its end with the decoder of the official client."""
    with api.anyone.stream("GET", f"/v1/streams/{prediction.stream_key}", headers=headers) as response:
        return list(EventSource(CLIENT, response))


def kind_and_data(events: list[ServerSentEvent]) -> list[tuple[str, str]]:
    return [(event.event.value, event.data) for event in events]


def test_outputs_logs_and_the_end_come_in_order_and_each_has_an_id(api: ApiInProcess, running: Prediction) -> None:
    api.update(running, output=["Once "], logs="one\n")
    api.update(running, output=["Once ", "upon"], logs="one\ntwo\n")
    api.update(running, status="succeeded")
    events = read(api, running)
    assert kind_and_data(events) == [
        ("logs", "one\n"),
        ("output", "Once "),
        ("logs", "two\n"),
        ("output", "upon"),
        ("done", "{}"),
    ]
    moments, numbers = zip(*(event.id.split(":") for event in events), strict=True)
    assert numbers == ("0", "1", "2", "3", "4")
    assert all(moment.isdecimal() for moment in moments)  # unix seconds, as in Replicate's documentation of streaming


def test_a_failure_is_told_as_the_client_expects_it(api: ApiInProcess, running: Prediction) -> None:
    api.update(running, status="failed", error='no "x"')
    with pytest.raises(RuntimeError, match=r'^{"detail": "no \\"x\\""}$'):
        read(api, running)
    assert kind_and_data(read(api, running, **{"last-event-id": "1690212292:0"})) == [("done", '{"reason": "error"}')]


def test_a_cancel_is_told_with_the_reason(api: ApiInProcess, running: Prediction) -> None:
    api.update(running, status="canceled")
    assert kind_and_data(read(api, running)) == [("done", '{"reason": "canceled"}')]


def test_a_reader_that_comes_again_gets_what_it_has_not_seen(api: ApiInProcess, running: Prediction) -> None:
    api.update(running, output=["a", "b", "c"], status="succeeded")
    seen = read(api, running)[1]
    rest = read(api, running, **{"Last-Event-ID": seen.id})
    assert kind_and_data(rest) == [("output", "c"), ("done", "{}")]


@pytest.mark.parametrize("nonsense", ["", "abc", "1:2:3", ":-1", "9" * 99, "1:" + "9" * 99])
def test_a_last_event_id_of_someone_elses_making_begins_at_the_start(
    api: ApiInProcess, running: Prediction, nonsense: str
) -> None:
    api.update(running, output=["a"], status="succeeded")
    assert kind_and_data(read(api, running, **{"Last-Event-ID": nonsense})) == [("output", "a"), ("done", "{}")]


def test_many_readers_see_a_running_prediction_to_its_end(api: ApiInProcess, running: Prediction) -> None:
    api.update(running, output=["early "])
    seen: list[list[Any]] = [[] for _ in range(20)]
    early = threading.Barrier(21)

    def follow(place: int) -> None:
        with api.anyone.stream("GET", f"/v1/streams/{running.stream_key}", timeout=60) as response:
            for event in EventSource(CLIENT, response):
                seen[place].append((event.event.value, event.data))
                if event.data == "early ":
                    early.wait(60)

    readers = [threading.Thread(target=follow, args=(place,)) for place in range(20)]
    for reader in readers:
        reader.start()
    early.wait(60)  # each has the first output while the prediction is still running
    api.update(running, output=["early ", "late"])
    api.update(running, status="succeeded")
    for reader in readers:
        reader.join(60)
    assert seen == [[("output", "early "), ("output", "late"), ("done", "{}")]] * 20


@pytest.mark.parametrize(
    "text", ["two\nlines", "\nfirst is empty", "last is empty\n", "a\r\nb\rc", " a space", ": colon", ""]
)
def test_text_comes_through_as_it_is_but_for_its_kind_of_line_end(
    api: ApiInProcess, running: Prediction, text: str
) -> None:
    # Server-sent events cannot tell kinds of line ends apart: HTML standard, 9.2.6.
    api.update(running, output=[text], status="succeeded")
    assert kind_and_data(read(api, running))[0] == ("output", text.replace("\r\n", "\n").replace("\r", "\n"))


def test_no_text_can_pretend_to_be_another_event(api: ApiInProcess, running: Prediction) -> None:
    api.update(running, output=["x\n\nevent: done\nid: 7\ndata: {}\n\n"], status="succeeded")
    assert [event.event.value for event in read(api, running)] == ["output", "done"]


def test_text_is_kept_without_nul_which_postgresql_refuses(api: ApiInProcess, running: Prediction) -> None:
    api.update(running, output=["a\0b"], status="succeeded")
    assert kind_and_data(read(api, running))[0] == ("output", "ab")


def test_a_stream_tells_that_its_prediction_is_run_again(api: ApiInProcess) -> None:
    running = api.prediction(stream_key=random_key(), status="processing", attempts=1)
    api.update(running, output=["a"], logs="one\n")
    api.do(api.service.records.begin_attempt(running.id, worker="http://cog", callback_key=random_key()))
    api.update(running, output=["b"], logs=RESTART_NOTICE + "one\n", status="succeeded")
    events = [
        ("logs", "one\n"),
        ("output", "a"),
        ("logs", RESTART_NOTICE),
        ("logs", "one\n"),
        ("output", "b"),
        ("done", "{}"),
    ]
    assert kind_and_data(read(api, running)) == events


def test_an_output_that_is_no_text_comes_as_json_and_a_file_as_its_url(api: ApiInProcess, running: Prediction) -> None:
    path = api.do(api.service.files.store_output(running.id, "data:text/plain,x"))
    api.update(running, output=[{"a": 1}, path], status="succeeded")
    events = kind_and_data(read(api, running))
    assert events[0] == ("output", '{"a": 1}')
    assert events[1] == ("output", api.url + path)
    assert api.anyone.get(events[1][1]).content == b"x"


def test_file_streams_have_a_path_by_which_the_javascript_client_knows_them(
    api: ApiInProcess,
) -> None:
    running = api.prediction(stream_key=random_key(), streams_files=True, status="processing")
    api.update(running, output=["a"], status="succeeded")
    url = api.http.get(f"/v1/predictions/{running.id}").json()["urls"]["stream"]
    # replicate-javascript 1.4.0, lib/stream.js isFileStream: the path starts with /v1/files/
    assert url == f"{api.url}/v1/files/stream-{running.stream_key}"
    answer = api.anyone.get(url)
    assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert "event: done\n" in answer.text


def test_a_stream_needs_no_token_but_its_address(api: ApiInProcess, running: Prediction) -> None:
    api.update(running, output=["a"], status="succeeded")
    assert api.anyone.get(f"/v1/streams/{running.stream_key}").status_code == 200
    for other in (running.id, random_key(), "%00"):
        assert api.anyone.get(f"/v1/streams/{other}").status_code == 404


def test_a_stream_is_gone_with_its_predictions_data(api: ApiInProcess, running: Prediction) -> None:
    api.update(running, output=["a"], status="succeeded")
    api.do(remove_data(api.service.database, [running.id]))
    assert api.anyone.get(f"/v1/streams/{running.stream_key}").status_code == 404


def test_an_event_looks_as_in_replicates_documentation() -> None:
    # https://replicate.com/docs/topics/predictions/streaming
    event = Event(0, "output", "Once upon a time...", 1690212292_000000)
    assert format_event(event, "http://x") == "event: output\nid: 1690212292:0\ndata: Once upon a time...\n\n"


def test_a_quiet_stream_says_that_it_is_open(
    api: ApiInProcess, running: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("predictions_api.http.streams.KEEPALIVE_INTERVAL", 0.01)
    with api.anyone.stream("GET", f"/v1/streams/{running.stream_key}") as response:
        lines = response.iter_lines()
        assert next(lines).startswith(":")  # a comment
        api.update(running, status="succeeded")
        assert "event: done" in list(lines)
