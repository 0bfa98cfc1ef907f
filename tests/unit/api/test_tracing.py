"""Traces for those who ask for them, to a collector that listens on this machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.edge import Edge
from app.metrics import Metrics
from app.tracing import Tracing
from faces.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


class Collector(HTTPServer):
    """Keeps what is sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []

    def spans(self) -> dict[str, Span]:
        """The spans by name."""
        found = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        scopes = [s for one in found for r in one.resource_spans for s in r.scope_spans]
        return {span.name: span for scope in scopes for span in scope.spans}


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        self.server.bodies.append(body)
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def serve(tracing: Tracing, headers: list[tuple[bytes, bytes]], status: int = 200) -> None:
    """One request to a route that takes time in two stages."""
    metrics = Metrics()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(metrics.stages, {"decode": 20.0, "encode": 30.0})
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    class Route:
        path_format = "/v1/things/{name}"

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/things/canary",
        "raw_path": b"/v1/things/canary",
        "query_string": b"canary=1",
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"localhost"), *headers],
        "route": Route(),
    }
    edge = Edge(app, metrics=metrics, tracing=tracing, keyless=True, production=False)
    asyncio.run(edge(scope, receive, send))


def test_a_request_and_its_stages_are_spans_below_the_callers(collector: Collector) -> None:
    url = f"http://127.0.0.1:{collector.server_port}"
    tracing = Tracing(Settings(otel_exporter_otlp_endpoint=url))
    tracing.start()
    serve(tracing, [(b"traceparent", f"00-{TRACE}-{CALLER}-01".encode())])
    tracing.stop()
    spans = collector.spans()
    request = spans["GET /v1/things/{name}"]
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == CALLER
    assert {one.key for one in request.attributes} == {
        *("http.request.method", "http.route", "http.response.status_code"),
        "likeness.request_id",
    }
    for name, ms in (("decode", 20), ("encode", 30)):
        stage = spans[name]
        assert stage.parent_span_id == request.span_id
        took = stage.end_time_unix_nano - stage.start_time_unix_nano
        assert abs(took / 1e6 - ms) < 0.1
    assert spans["decode"].end_time_unix_nano == spans["encode"].start_time_unix_nano
    assert not any(b"canary" in body for body in collector.bodies)
    assert any(b"likeness" in body for body in collector.bodies)


def test_a_failed_request_is_an_error_and_rubbish_from_the_caller_is_dropped(
    collector: Collector,
) -> None:
    url = f"http://127.0.0.1:{collector.server_port}/"
    tracing = Tracing(Settings(otel_exporter_otlp_endpoint=url))
    tracing.start()
    serve(tracing, [(b"traceparent", b"\xff canary"), (b"tracestate", b"canary")], status=503)
    tracing.stop()
    request = collector.spans()["GET /v1/things/{name}"]
    assert request.status.code == 2
    assert request.parent_span_id == b""
    assert not any(b"canary" in body for body in collector.bodies)


def test_what_a_caller_says_of_its_trace_is_neither_exported_nor_logged(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger's own words stood in each span; malformed ones stood in the log."""
    url = f"http://127.0.0.1:{collector.server_port}"
    tracing = Tracing(Settings(otel_exporter_otlp_endpoint=url))
    tracing.start()
    for state in (b"canary=canary", b"no state of a canary"):
        parent = f"00-{TRACE}-{CALLER}-01".encode()
        serve(tracing, [(b"traceparent", parent), (b"tracestate", state)])
    tracing.stop()
    assert collector.spans()["GET /v1/things/{name}"].parent_span_id.hex() == CALLER
    assert not any(b"canary" in body for body in collector.bodies)
    assert "canary" not in caplog.text


def test_nothing_is_traced_when_nobody_asks(collector: Collector) -> None:
    tracing = Tracing(Settings())
    tracing.start()
    serve(tracing, [])
    tracing.stop()
    assert collector.bodies == []


def test_a_collector_that_is_away_does_not_hold_up_the_end() -> None:
    tracing = Tracing(Settings(otel_exporter_otlp_endpoint="http://127.0.0.1:9"))
    tracing.start()
    serve(tracing, [])
    began = time.monotonic()
    tracing.stop()
    assert time.monotonic() - began < 60


def test_asking_without_the_packages_is_refused_in_a_sentence() -> None:
    code = "import sys; sys.modules['opentelemetry.sdk'] = None; import app.main"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
    )
    assert done.returncode == 1
    assert "pip install opentelemetry-sdk" in done.stderr
    assert "Traceback" not in done.stderr
