"""What Prometheus can see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counts for ``/metrics``. With several workers the answer has the sums over all of them.

    What concerns the model (version, age, reloads) is that of the worker that answers.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "recbole_vae_requests",
            "Requests by path and status of the answer.",
            ("path", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "recbole_vae_request_seconds",
            "From a request to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._histories = Counter("recbole_vae_histories", "Histories that were ranked.", registry=self.registry)
        self._empty = Counter(
            "recbole_vae_empty_histories",
            "Histories without a known item; without a profile, they got the most popular items.",
            registry=self.registry,
        )
        self._unknown = Counter(
            "recbole_vae_unknown_items", "Items of histories that the model does not know.", registry=self.registry
        )
        self._batch = Histogram(
            "recbole_vae_batch_histories",
            "Histories that were ranked together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self._children: dict[Any, Any] = {}

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        counter = self._children.get((path, status))
        if counter is None:
            counter = self._children[path, status] = self._requests.labels(path, str(status))
            self._children[path] = self._seconds.labels(path)
        counter.inc()
        self._children[path].observe(seconds)

    def ranked(self, known: list[int], unknown: int) -> None:
        """Count the histories of a request, by the number of their known items, and the unknown items."""
        self._histories.inc(len(known))
        if unknown:
            self._unknown.inc(unknown)
        if empty := known.count(0):
            self._empty.inc(empty)

    def batch(self, size: int) -> None:
        """Count a batch."""
        self._batch.observe(size)

    def text(self, current: Any, waiting: int) -> bytes:
        """Return all metrics in Prometheus's format."""
        registry = CollectorRegistry()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry.register(self.registry)
        registry.register(_OfModel(current, waiting))
        return bytes(generate_latest(registry))


class _OfModel:
    """What is known of the model at the time of the answer."""

    def __init__(self, current: Any, waiting: int) -> None:
        self.current, self.waiting = current, waiting

    def collect(self) -> Iterator[Any]:
        served = self.current.served
        info = GaugeMetricFamily(
            "recbole_vae_model", "The model that is served.", labels=("model", "dataset", "version")
        )
        info.add_metric((type(served.recommender.model).__name__, served.recommender.dataset, served.version), 1)
        yield info
        age = (datetime.now(timezone.utc) - served.written).total_seconds()
        yield GaugeMetricFamily("recbole_vae_model_age_seconds", "Since the checkpoint was written.", value=age)
        reloads = CounterMetricFamily("recbole_vae_reloads", "New checkpoints, by result.", labels=("result",))
        reloads.add_metric(("taken_up",), self.current.reloads)
        reloads.add_metric(("refused",), self.current.refused)
        yield reloads
        yield GaugeMetricFamily(
            "recbole_vae_waiting_histories", "Histories that wait to be ranked.", value=self.waiting
        )
