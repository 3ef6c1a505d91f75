"""Figures for Prometheus: of this server since its start, but who waits is counted in the database, for all servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from predictions_api.upkeep import count_waiting

if TYPE_CHECKING:
    from predictions_api.predictions import Prediction
    from predictions_api.records import Records

BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)  # seconds


class Metrics:
    """Counts what is recorded here."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.registry = CollectorRegistry()
        self.ended = Counter(
            "predictions_ended", "Predictions that have ended", ["model", "status"], registry=self.registry
        )
        self.waited = Histogram(
            "prediction_waited_seconds", "Time in the queue", ["model"], buckets=BUCKETS, registry=self.registry
        )
        self.ran = Histogram(
            "prediction_ran_seconds", "Time in the model", ["model"], buckets=BUCKETS, registry=self.registry
        )
        self.waiting = Gauge("predictions_waiting", "Predictions in the queue", ["model"], registry=self.registry)
        self.requests = Counter(
            "requests", "HTTP requests answered", ["method", "route", "status"], registry=self.registry
        )
        records.changed.append(self._count)

    def _count(self, prediction: Prediction) -> None:
        if not prediction.ended:
            return
        self.ended.labels(prediction.model, prediction.status).inc()
        if prediction.started_at is not None and prediction.completed_at is not None:
            self.waited.labels(prediction.model).observe((prediction.started_at - prediction.created_at) / 1e6)
            self.ran.labels(prediction.model).observe((prediction.completed_at - prediction.started_at) / 1e6)

    async def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        self.waiting.clear()
        for model, count in (await count_waiting(self.records.database)).items():
            self.waiting.labels(model).set(count)
        return generate_latest(self.registry)
