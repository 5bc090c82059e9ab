"""What Prometheus is told of the service: requests, waiting, forward passes, memory."""

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
    """The figures of one service."""

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
            "Time from a request's first byte to the last of its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.places = Gauge(
            "violence_places_taken", "Requests that upload, wait or are judged", registry=registry
        )
        self.clips = Counter("violence_clips", "Clips by verdict", ["verdict"], registry=registry)
        self.uploaded = Counter(
            "violence_uploaded_bytes", "Bytes of the clips that came whole", registry=registry
        )
        self.pass_clips = Histogram(
            "violence_pass_clips",
            "Clips, or windows of clips, that shared a forward pass",
            buckets=CLIPS,
            registry=registry,
        )
        self.pass_seconds = Histogram(
            "violence_pass_seconds",
            "Time that a forward pass takes",
            buckets=SECONDS,
            registry=registry,
        )

    def as_text(self) -> bytes:
        """Return all figures in Prometheus's own format."""
        return generate_latest(self.registry)
