"""Traces by OpenTelemetry, for those who ask for them with OTEL_EXPORTER_OTLP_ENDPOINT.

A span for each request, with one below it for each stage of its work. They hold what the log
holds: method, route, status and request id; no path, query, address, key or name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from faces.errors import ConfigError
from faces.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

PACKAGES = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
PARTING_SECONDS = 1.0
Stages = list[tuple[str, int, int]]
"""Name, begin and end of each stage, in nanoseconds of the wall clock."""

_stages: ContextVar[Stages | None] = ContextVar("stages", default=None)


class Tracing:
    """Spans of one process. Does nothing before `start`."""

    def __init__(self, settings: Settings) -> None:
        """Opens nothing. Raises ConfigError when traces are wanted and the packages are missing."""
        self._endpoint = settings.otel_exporter_otlp_endpoint
        self._service = settings.otel_service_name
        self._provider: TracerProvider | None = None
        if self._endpoint is not None:
            _check_packages()

    def start(self) -> None:
        """Begin to export, where that is wanted."""
        if self._endpoint is None:
            return
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = OTLPSpanExporter(endpoint=f"{self._endpoint.rstrip('/')}/v1/traces", timeout=5)
        provider = TracerProvider(
            resource=Resource.create({"service.name": self._service}), shutdown_on_exit=False
        )
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._provider = provider

    def stop(self) -> None:
        """Send what is left, but wait for a collector that is away no longer than a second."""
        provider, self._provider = self._provider, None
        if provider is not None:
            parting = threading.Thread(target=provider.shutdown, name="spans", daemon=True)
            parting.start()
            parting.join(PARTING_SECONDS)

    def begin(self) -> Stages | None:
        """Where the stages of the request at hand are noted from now on; None without traces."""
        if self._provider is None:
            return None
        stages: Stages = []
        _stages.set(stages)
        return stages

    def end(
        self,
        headers: Mapping[bytes, bytes],
        method: str,
        route: str,
        status: int,
        seconds: float,
        request_id: str,
        stages: Stages | None,
    ) -> None:
        """Record one request that has just ended, below the caller's span where it names one."""
        provider = self._provider
        if provider is None:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        tracer = provider.get_tracer("likeness")
        # Not its `tracestate`, which may say anything: it would stand in each span and, where it is
        # malformed, in the log.
        parent = headers.get(b"traceparent", b"")
        carried = {"traceparent": parent.decode("ascii")} if parent.isascii() else {}
        now = time.time_ns()
        span = tracer.start_span(
            f"{method} {route}",
            context=TraceContextTextMapPropagator().extract(carried),
            kind=SpanKind.SERVER,
            start_time=now - int(seconds * 1e9),
            attributes={
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "likeness.request_id": request_id,
            },
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        below = set_span_in_context(span)
        for name, begin, end in stages or ():
            tracer.start_span(name, context=below, start_time=begin).end(end)
        span.end(now)


def note(timings_ms: Mapping[str, float]) -> None:
    """Note stages, done one after the other until now, for the trace of the request at hand."""
    stages = _stages.get()
    if stages is None:
        return
    end = time.time_ns()
    for name, ms in reversed(list(timings_ms.items())):
        begin = end - int(ms * 1e6)
        stages.append((name, begin, end))
        end = begin


def _check_packages() -> None:
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401 - only whether it is there
    except ImportError:
        raise ConfigError(
            "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, but the packages that send them are not "
            f"installed: run `pip install {PACKAGES}`, or unset the variable."
        ) from None
