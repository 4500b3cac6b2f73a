"""What is counted, as Prometheus reads it. Under a supervisor all workers count together."""

import asyncio
import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # the library shares values in files there
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)


class Metrics:
    """One server's counters."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "wavenet_requests",
            "Requests by address and HTTP status, or WebSocket close code",
            ["route", "outcome"],
            registry=registry,
        )
        self.latency = Histogram(
            "wavenet_latency_seconds",
            "From a request's head to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_byte = Histogram(
            "wavenet_first_byte_seconds",
            "From a request's head to the first byte of its audio",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.real_time_factor = Histogram(
            "wavenet_real_time_factor",
            "Seconds of audio for a second of computing, by utterance",
            buckets=(0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=registry,
        )
        self.batch = Histogram(
            "wavenet_batch_size",
            "Utterances with something to say and a place, whenever a piece is computed: on a CPU of one of them, "
            "on a GPU of all that are of one model",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.queue = Gauge(
            "wavenet_queue_length",
            "Utterances with something to say, but no place among those that take turns",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.running = Gauge(
            "wavenet_running_requests",
            "Requests that are not yet answered",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.tasks = Gauge(
            "wavenet_tasks",
            "Tasks of the event loop",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.samples = Counter("wavenet_samples", "Samples of audio that were made", registry=registry)

    def count_tasks(self) -> None:
        """Now and then, in every process: one of them is asked for the sum."""
        self.tasks.set(len(asyncio.all_tasks()))

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        registry = self._registry
        if os.environ.get(MULTIPROCESS):
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
