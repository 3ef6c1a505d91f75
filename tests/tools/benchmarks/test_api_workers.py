"""The figure of the benchmark of workers that come and go, computed by hand."""

from __future__ import annotations

from types import SimpleNamespace

from benchmarks.api_workers import Addresses, waits


def test_a_prediction_waits_while_a_worker_is_free_that_has_come_and_not_gone() -> None:
    addresses = Addresses()
    addresses.began, addresses.ended = {"a": 0, "b": 10}, {"a": 9}
    sent = [(6, "first", "a"), (12, "second", "b")]
    rows = [
        SimpleNamespace(id="first", created_at=1e6, completed_at=8e6),  # a is free from 0 to 6
        SimpleNamespace(id="second", created_at=3e6, completed_at=13e6),  # ... from 8 to 9, b from 10 to 12
    ]
    assert waits(sent, rows, addresses) == [6 - 1, 6 - 3]
    rows[1].created_at = 7e6
    assert waits(sent, rows, addresses) == [6 - 1, 12 - 10]
