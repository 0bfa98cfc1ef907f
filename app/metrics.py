"""Prometheus metrics of this process. Labels are routes, states and stages, never user data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from faces.records import Job

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "likeness_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._latency = Histogram(
            "likeness_request_seconds",
            "Time from the request's head to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "likeness_stage_seconds",
            "Time of one stage of the work on a picture or a search.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._faces = Counter(
            "likeness_faces", "Faces found in pictures.", ("operation",), registry=self.registry
        )
        self._states = Gauge(
            "likeness_state",
            "1 for the present state of each part.",
            ("part", "state"),
            registry=self.registry,
        )

        self._worker = Gauge(
            "likeness_worker_alive", "1 when a worker beats.", registry=self.registry
        )
        self._jobs = Gauge(
            "likeness_jobs",
            "The latest jobs, by kind and state.",
            ("kind", "state"),
            registry=self.registry,
        )
        self._progress = Gauge(
            "likeness_job_progress",
            "The share that a running job has done.",
            ("kind",),
            registry=self.registry,
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def stages(self, timings_ms: Mapping[str, float]) -> None:
        """Observe the stages of one piece of work, in milliseconds."""
        for stage, ms in timings_ms.items():
            self._stages.labels(stage).observe(ms / 1000)

    def faces(self, operation: str, count: int) -> None:
        """Count faces found by an operation."""
        self._faces.labels(operation).inc(count)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read whenever the metrics are."""
        Gauge(f"likeness_{name}", text, registry=self.registry).set_function(read)

    def states(self, present: Mapping[str, str]) -> None:
        """Set the state of each part."""
        self._states.clear()
        for part, state in present.items():
            self._states.labels(part, state).set(1)

    def jobs(self, jobs: Iterable[Job], *, worker: bool) -> None:
        """Set what is known of the worker and of the latest jobs."""
        self._worker.set(worker)
        self._jobs.clear()
        self._progress.clear()
        for job in jobs:
            self._jobs.labels(job.kind, job.state).inc()
            if job.state == "running" and job.total:
                self._progress.labels(job.kind).set(job.done / job.total)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
