"""Spans reach a collector, and a collector that is away harms nobody."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from onesheet.serving import create_app
from tests.processes import serve_in_thread

pytestmark = pytest.mark.anyio


@pytest.fixture
def collector():
    """A real HTTP server that keeps what OTLP exporters send; `.url` and `.spans`."""
    spans = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in request.resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *args):
            pass

    with serve_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Collector)) as server:
        server.url, server.spans = f"http://127.0.0.1:{server.server_port}", spans
        yield server


async def test_a_request_and_its_stages_are_traced(settings, predictor, connect, collector, make_poster):
    app = create_app(settings.model_copy(update={"otlp_endpoint": collector.url}), predictor)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with app.router.lifespan_context(app), connect(app) as client:
        await client.post("/predict", files={"file": make_poster()}, headers={"traceparent": parent})
        await client.get("/livez")

    spans = {span.name: span for span in collector.spans}
    assert {name for name in spans if not name.startswith("POST")} == {"queue", "decode", "model", "log"}
    request = next(span for name, span in spans.items() if name.startswith("POST"))
    assert request.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    stages = [spans[name] for name in ("queue", "decode", "model", "log")]
    assert all(stage.parent_span_id == request.span_id for stage in stages)
    for first, second in pairwise(stages):
        assert first.end_time_unix_nano == second.start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= time.time_ns()


async def test_without_a_collector_everything_is_answered(settings, predictor, connect, make_poster):
    app = create_app(settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:9"}), predictor)
    async with connect(app) as client:
        for _ in range(3):
            assert (await client.post("/predict", files={"file": make_poster()})).status_code == 200
