"""The metrics of a server, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from ibkd_retrieval.serving.answering import Answer, ServedIndex

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, indexes: Sequence[ServedIndex], waiting: Callable[[], float]) -> None:
        """Start at zero.

        Args:
            indexes: that are served.
            waiting: tells how many queries wait.
        """
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("ibkd_requests", "Requests answered.", ["path", "status"], registry=registry)
        self._request_seconds = Histogram(
            "ibkd_request_seconds", "From request to answer.", ["path"], buckets=_SECONDS, registry=registry
        )
        self._batches = Histogram(
            "ibkd_batch_queries", "Queries worked on together.", buckets=_BATCHES, registry=registry
        )
        self._encoding = Histogram(
            "ibkd_encoding_seconds", "To encode a batch.", ["index"], buckets=_SECONDS, registry=registry
        )
        self._searching = Histogram(
            "ibkd_searching_seconds", "To search for a batch.", ["index"], buckets=_SECONDS, registry=registry
        )
        Gauge("ibkd_waiting_queries", "Queries that wait for a batch.", registry=registry).set_function(waiting)
        documents = Gauge("ibkd_documents", "Documents that can be found.", ["index"], registry=registry)
        for index in indexes:
            documents.labels(index.name).set(index.documents)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; `path` is one of few."""
        self._requests.labels(path, str(status)).inc()
        self._request_seconds.labels(path).observe(seconds)

    def batch(self, indexes: Sequence[ServedIndex], answers: Sequence[Sequence[Answer]]) -> None:
        """Count a batch that was worked on: for each question, an answer of each index."""
        self._batches.observe(len(answers))
        for index, answer in zip(indexes, answers[0], strict=True):
            self._searching.labels(index.name).observe(answer.searching_ms / 1000)
            if answer.encoding_ms is not None:
                self._encoding.labels(index.name).observe(answer.encoding_ms / 1000)

    def text(self) -> bytes:
        """All counters now."""
        return bytes(generate_latest(self._registry))
