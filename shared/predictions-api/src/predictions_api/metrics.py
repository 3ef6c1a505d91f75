"""Metrics for Prometheus, of this server since its start. The waiting predictions are those of all servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Mapping

BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)  # seconds


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.end_count = Counter(
            "predictions_ended", "Predictions that have ended", ["model", "status"], registry=self.registry
        )
        self.wait_seconds = Histogram(
            "prediction_waited_seconds", "Time in the queue", ["model"], buckets=BUCKETS, registry=self.registry
        )
        self.run_seconds = Histogram(
            "prediction_ran_seconds", "Time in the model", ["model"], buckets=BUCKETS, registry=self.registry
        )
        self.waiting_count = Gauge("predictions_waiting", "Predictions in the queue", ["model"], registry=self.registry)
        self.request_count = Counter(
            "requests", "HTTP requests answered", ["method", "route", "status"], registry=self.registry
        )

    def count_end(
        self, model: str, status: str, created_at: int, started_at: int | None, completed_at: int | None
    ) -> None:
        """Count a prediction that has ended. Times are microseconds since 1970, UTC."""
        self.end_count.labels(model, status).inc()
        if started_at is not None and completed_at is not None:
            self.wait_seconds.labels(model).observe((started_at - created_at) / 1e6)
            self.run_seconds.labels(model).observe((completed_at - started_at) / 1e6)

    def text(self, waiting: Mapping[str, int]) -> bytes:
        """Return all metrics in Prometheus's text format. `waiting`: number of waiting predictions by model."""
        self.waiting_count.clear()
        for model, count in waiting.items():
            self.waiting_count.labels(model).set(count)
        return generate_latest(self.registry)
