"""Spans for OpenTelemetry: one a request, and one in it for each stage of an answer. Needs the `tracing` extra."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.middleware import Middleware

from onesheet.serving.context import PROBES

_PATH: Final = "/v1/traces"


class Tracing:
    """Sends spans to a collector, in the background; a collector that is away costs spans, never answers.

    Args:
        endpoint: Base address of an OTLP collector that speaks HTTP, such as `http://localhost:4318`.
    """

    def __init__(self, endpoint: str) -> None:
        address = endpoint.rstrip("/")
        exporter = OTLPSpanExporter(address if address.endswith(_PATH) else address + _PATH)
        resource = Resource.create({"service.name": "onesheet", "service.version": version("onesheet")})
        # Our own, not the process' global one: whoever embeds the application keeps his.
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("onesheet")

    def middleware(self) -> Middleware:
        """Opens a span for each request, as part of the trace that the client names, if it does."""
        return Middleware(
            OpenTelemetryMiddleware,
            tracer_provider=self._provider,
            excluded_urls=",".join(sorted(PROBES)),
            exclude_spans=["receive", "send"],
        )

    def stages(self, seconds: Mapping[str, float]) -> None:
        """Add spans for the stages of an answer that is just finished, laid end to end up to now.

        Args:
            seconds: Of each stage, in their order.
        """
        start = time.time_ns() - int(sum(seconds.values()) * 1e9)
        for name, length in seconds.items():
            end = start + int(length * 1e9)
            self._tracer.start_span(name, start_time=start).end(end)
            start = end

    def close(self) -> None:
        """Send what has gathered, then stop."""
        self._provider.shutdown()
