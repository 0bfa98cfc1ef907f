"""Prometheus metrics of this process. Labels are routes, states and stages, never user data."""

from __future__ import annotations

import datetime as dt
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from app import tracing
from faces.records import Job

_PAGE = os.sysconf("SC_PAGE_SIZE")
_LATELY = dt.timedelta(hours=1)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.gauge(
            "resident_bytes",
            "Resident memory of this process and its children, as a platform counts it.",
            resident_bytes,
        )
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

        self._lag = Gauge(
            "likeness_index_lag_seconds",
            "From a face's write to the moment that the index found it, measured last.",
            registry=self.registry,
        )
        self._lag_age = Gauge(
            "likeness_index_lag_age_seconds",
            "How long ago the index lag was measured; a worker does it each minute.",
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
        self._failed = Gauge(
            "likeness_jobs_failed_lately",
            "Jobs that failed within the last hour.",
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
        """Observe the stages of one piece of work, in milliseconds, in the trace as well."""
        tracing.note(timings_ms)
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

    def index_lag(self, measured: tuple[float, dt.datetime] | None, now: dt.datetime) -> None:
        """Set the index lag in seconds and when it was measured; unknown is NaN."""
        lag, at = measured if measured is not None else (math.nan, None)
        self._lag.set(lag)
        self._lag_age.set((now - at).total_seconds() if at is not None else math.nan)

    def jobs(self, jobs: Iterable[Job], *, worker: bool, now: dt.datetime) -> None:
        """Set what is known of the worker and of the latest jobs."""
        failed = 0
        self._worker.set(worker)
        self._jobs.clear()
        self._progress.clear()
        for job in jobs:
            self._jobs.labels(job.kind, job.state).inc()
            if job.state == "failed" and job.finished_at is not None:
                failed += now - job.finished_at < _LATELY
            if job.state == "running" and job.total:
                self._progress.labels(job.kind).set(job.done / job.total)
        self._failed.set(failed)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)


def resident_bytes() -> float:
    """Resident bytes of this process and all below it; NaN where the system does not tell."""
    parents: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has just ended, or is another user's
        pid = int(path.parent.name)
        parents.setdefault(int(fields[1]), []).append(pid)
        sizes[pid] = int(fields[21]) * _PAGE
    total, wanted = 0, [os.getpid()]
    while wanted:
        pid = wanted.pop()
        total += sizes.get(pid, 0)
        wanted += parents.get(pid, [])
    return total or math.nan
