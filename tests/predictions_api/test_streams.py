"""Streams, read with the decoder of the official Python client: events, resuming and access."""

from __future__ import annotations

import threading
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

CLIENT = replicate.Client(api_token=TOKEN)  # sends nothing; the decoder needs one


@pytest.fixture
def prediction(api: ApiInProcess) -> Prediction:
    return api.add_prediction(stream_key=random_key(), status="processing")


def read(api: ApiInProcess, prediction: Prediction, **headers: str) -> list[ServerSentEvent]:
    """Read a stream to its end with the decoder of the official client."""
    with api.anonymous_http.stream("GET", f"/v1/streams/{prediction.stream_key}", headers=headers) as response:
        return list(EventSource(CLIENT, response))


def kind_and_data(events: list[ServerSentEvent]) -> list[tuple[str, str]]:
    return [(event.event.value, event.data) for event in events]


def test_outputs_logs_and_the_end_come_in_order_with_ids(api: ApiInProcess, prediction: Prediction) -> None:
    api.update(prediction, output=["Once "], logs="one\n")
    api.update(prediction, output=["Once ", "upon"], logs="one\ntwo\n")
    api.update(prediction, status="succeeded")
    events = read(api, prediction)
    assert kind_and_data(events) == [
        ("logs", "one\n"),
        ("output", "Once "),
        ("logs", "two\n"),
        ("output", "upon"),
        ("done", "{}"),
    ]
    moments, numbers = zip(*(event.id.split(":") for event in events), strict=True)
    assert numbers == ("0", "1", "2", "3", "4")
    assert all(moment.isdecimal() for moment in moments)  # Unix seconds, as in Replicate's documentation of streaming


def test_a_failure_is_an_error_event_that_the_client_raises(api: ApiInProcess, prediction: Prediction) -> None:
    api.update(prediction, status="failed", error='no "x"')
    with pytest.raises(RuntimeError, match=r'^{"detail": "no \\"x\\""}$'):
        read(api, prediction)
    assert kind_and_data(read(api, prediction, **{"last-event-id": "1690212292:0"})) == [
        ("done", '{"reason": "error"}')
    ]


def test_done_has_the_reason_canceled(api: ApiInProcess, prediction: Prediction) -> None:
    api.update(prediction, status="canceled")
    assert kind_and_data(read(api, prediction)) == [("done", '{"reason": "canceled"}')]


def test_a_stream_resumes_after_the_last_event_id(api: ApiInProcess, prediction: Prediction) -> None:
    api.update(prediction, output=["a", "b", "c"], status="succeeded")
    seen = read(api, prediction)[1]
    rest = read(api, prediction, **{"Last-Event-ID": seen.id})
    assert kind_and_data(rest) == [("output", "c"), ("done", "{}")]


@pytest.mark.parametrize("event_id", ["", "abc", "1:2:3", ":-1", "9" * 99, "1:" + "9" * 99])
def test_an_invalid_last_event_id_starts_at_the_first_event(
    api: ApiInProcess, prediction: Prediction, event_id: str
) -> None:
    api.update(prediction, output=["a"], status="succeeded")
    assert kind_and_data(read(api, prediction, **{"Last-Event-ID": event_id})) == [("output", "a"), ("done", "{}")]


def test_many_readers_follow_a_running_prediction_to_its_end(api: ApiInProcess, prediction: Prediction) -> None:
    api.update(prediction, output=["early "])
    seen: list[list[Any]] = [[] for _ in range(20)]
    first_output = threading.Barrier(21)

    def follow(place: int) -> None:
        with api.anonymous_http.stream("GET", f"/v1/streams/{prediction.stream_key}", timeout=60) as response:
            for event in EventSource(CLIENT, response):
                seen[place].append((event.event.value, event.data))
                if event.data == "early ":
                    first_output.wait(60)

    readers = [threading.Thread(target=follow, args=(place,)) for place in range(20)]
    for reader in readers:
        reader.start()
    first_output.wait(60)  # every reader has it while the prediction is running
    api.update(prediction, output=["early ", "late"])
    api.update(prediction, status="succeeded")
    for reader in readers:
        reader.join(60)
    assert seen == [[("output", "early "), ("output", "late"), ("done", "{}")]] * 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, text) for text in ("two\nlines", "\nfirst is empty", "last is empty\n", " a space", ": colon", "")),
        ("a\r\nb\rc", "a\nb\nc"),  # server-sent events do not distinguish line ends: HTML standard, 9.2.6
        ("x\n\nevent: done\nid: 7\ndata: {}\n\n",) * 2,  # looks like an event
        ("a\0b", "ab"),  # PostgreSQL refuses NUL
    ],
)
def test_a_text_is_one_output_unchanged_except_for_line_ends_and_nul(
    api: ApiInProcess, prediction: Prediction, text: str, expected: str
) -> None:
    api.update(prediction, output=[text], status="succeeded")
    assert kind_and_data(read(api, prediction)) == [("output", expected), ("done", "{}")]


def test_a_second_attempt_is_announced_in_the_logs_of_the_stream(api: ApiInProcess) -> None:
    prediction = api.add_prediction(stream_key=random_key(), status="processing", attempts=1)
    api.update(prediction, output=["a"], logs="one\n")
    api.run(api.service.records.begin_attempt(prediction.id, worker="http://cog", callback_key=prediction.callback_key))
    api.update(prediction, output=["b"], logs=RESTART_NOTICE + "one\n", status="succeeded")
    events = [
        ("logs", "one\n"),
        ("output", "a"),
        ("logs", RESTART_NOTICE),
        ("logs", "one\n"),
        ("output", "b"),
        ("done", "{}"),
    ]
    assert kind_and_data(read(api, prediction)) == events


def test_a_second_attempt_keeps_the_ignored_inputs_in_the_logs(api: ApiInProcess) -> None:
    ignored = 'Ignored input "a", which test/model does not have\n'
    prediction = api.add_prediction(stream_key=random_key(), logs=ignored)
    begin = api.service.records.begin_attempt
    first = api.run(begin(prediction.id, worker="http://cog", callback_key=prediction.callback_key))
    api.update(prediction, logs=ignored + "one\n")
    second = api.run(begin(prediction.id, worker="http://cog", callback_key=prediction.callback_key))
    assert first is not None
    assert second is not None
    assert (first.logs, second.logs) == (ignored, ignored + RESTART_NOTICE)


def test_an_output_object_is_sent_as_json_and_a_file_as_its_url(api: ApiInProcess, prediction: Prediction) -> None:
    path = api.store_output("data:text/plain,x", prediction.id)
    api.update(prediction, output=[{"a": 1}, path], status="succeeded")
    events = kind_and_data(read(api, prediction))
    assert events[0] == ("output", '{"a": 1}')
    assert events[1] == ("output", api.url + path)
    assert api.anonymous_http.get(events[1][1]).content == b"x"


def test_a_stream_is_read_with_its_key_and_without_a_token(api: ApiInProcess, prediction: Prediction) -> None:
    api.update(prediction, output=["a"], status="succeeded")
    assert api.anonymous_http.get(f"/v1/streams/{prediction.stream_key}").status_code == 200
    for key in (prediction.id, random_key(), "%00"):
        assert api.anonymous_http.get(f"/v1/streams/{key}").status_code == 404


def test_a_stream_is_404_when_the_data_of_its_prediction_is_removed(api: ApiInProcess, prediction: Prediction) -> None:
    api.update(prediction, output=["a"], status="succeeded")
    api.run(remove_data(api.service.database, [prediction.id]))
    assert api.anonymous_http.get(f"/v1/streams/{prediction.stream_key}").status_code == 404


def test_an_event_has_the_format_of_replicates_documentation() -> None:
    # https://replicate.com/docs/topics/predictions/streaming
    event = Event(0, "output", "Once upon a time...", 1690212292_000000)
    assert format_event(event, "http://x") == "event: output\nid: 1690212292:0\ndata: Once upon a time...\n\n"


def test_a_stream_without_events_sends_keepalive_comments(
    api: ApiInProcess, prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("predictions_api.http.streams.KEEPALIVE_INTERVAL", 0.01)
    with api.anonymous_http.stream("GET", f"/v1/streams/{prediction.stream_key}") as response:
        lines = response.iter_lines()
        assert next(lines).startswith(":")  # a comment
        api.update(prediction, status="succeeded")
        assert "event: done" in list(lines)
