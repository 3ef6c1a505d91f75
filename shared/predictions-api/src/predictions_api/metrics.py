"""Metrics for Prometheus, of this server since its start. Waiting and running predictions are those of all servers."""

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
        self.running_count = Gauge("predictions_running", "Predictions in the model", ["model"], registry=self.registry)
        self.worker_count = Gauge(
            "cog_servers", "Cog servers that can run predictions", ["model"], registry=self.registry
        )
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

    def text(self, unended: Mapping[tuple[str, str], int], workers: Mapping[str, int]) -> bytes:
        """Return all metrics in Prometheus's text format.

        `unended`: number of predictions by model and status, starting or processing. `workers`: Cog servers by model.
        """
        for gauge, status in ((self.waiting_count, "starting"), (self.running_count, "processing")):
            gauge.clear()
            for model in {*workers, *(model for model, _ in unended)}:
                gauge.labels(model).set(unended.get((model, status), 0))
        for model, count in workers.items():
            self.worker_count.labels(model).set(count)
        return generate_latest(self.registry)
