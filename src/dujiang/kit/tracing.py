"""OpenTelemetry traces, when an endpoint is set; otherwise nothing of it is imported, since memory counts.

The standard variables apply (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`,
`OTEL_SERVICE_NAME`, ...); spans go out over OTLP/HTTP in the background, and a collector that is away costs only spans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

QUIET_ROUTES = "healthz,readyz,metrics"


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Say whether an endpoint for traces is set and tracing is not switched off."""
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return bool(endpoint) and environ.get("OTEL_SDK_DISABLED", "").lower() != "true"


def instrument(app: FastAPI, environ: Mapping[str, str], *, version: str) -> Callable[[], None]:
    """Trace the requests that the application answers and those that it makes over httpx.

    Args:
        app: called before it serves its first request.
        environ: of the process; read by the exporter too.
        version: told as `service.version`.

    Returns:
        What to call at the end: it sends the spans that are still waiting, for at most some seconds.
    """
    if not is_wanted(environ):
        return lambda: None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = environ.get("OTEL_SERVICE_NAME") or "dujiang"
    resource = Resource.create({"service.name": named, "service.version": version})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, excluded_urls=QUIET_ROUTES, exclude_spans=["receive", "send"]
    )
    clients = HTTPXClientInstrumentor()
    clients.instrument(tracer_provider=provider)

    def stop() -> None:
        clients.uninstrument()
        FastAPIInstrumentor.uninstrument_app(app)
        provider.shutdown()

    return stop
