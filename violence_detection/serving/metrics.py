"""Prometheus metrics of the service: requests, slots, clips, forward passes, memory."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
CLIPS = (1, 2, 3, 4, 6, 8, 12, 16, 32)


class ServiceMetrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.registry = registry
        self.requests = Counter(
            "violence_requests", "Requests answered", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "violence_request_seconds",
            "Time from the start of a request to the end of its response",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.slots = Gauge(
            "violence_places_taken",
            "Requests that are uploading, waiting or being predicted",
            registry=registry,
        )
        self.clips = Counter(
            "violence_clips", "Clips by prediction", ["verdict"], registry=registry
        )
        self.uploaded = Counter(
            "violence_uploaded_bytes", "Bytes of completely uploaded clips", registry=registry
        )
        self.pass_clips = Histogram(
            "violence_pass_clips",
            "Clips in a forward pass",
            buckets=CLIPS,
            registry=registry,
        )
        self.pass_seconds = Histogram(
            "violence_pass_seconds",
            "Duration of a forward pass",
            buckets=SECONDS,
            registry=registry,
        )

    def as_text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)
