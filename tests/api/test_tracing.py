"""Traces reach a collector when one is set, and nothing of it is loaded when none is."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from dujiang.kit import tracing
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from tests.factories import a_platform


class Collector:
    """Takes OTLP over HTTP and keeps the names of the spans."""

    def __init__(self) -> None:
        spans = self.spans = []  # type: list[str]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    spans.extend(span.name for scope in resource.scope_spans for span in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


async def test_spans_of_requests_reach_the_collector(
    sqlite: Database, clock: ManualClock, ids: Ids, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = await a_platform(sqlite, clock, ids)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    stop = tracing.instrument(platform.app, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, version="1")
    async with platform.client() as client:
        assert (await client.get("/v1/projects/own")).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/v1/nothing")).status_code == 404
    stop()
    assert "GET /v1/projects/{project}" in collector.spans
    assert not any("healthz" in name for name in collector.spans)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_an_endpoint_is_what_asks_for_traces(environ: dict[str, str], wanted: bool) -> None:
    assert tracing.is_wanted(environ) is wanted


def test_without_an_endpoint_nothing_of_it_is_loaded() -> None:
    program = """
import sys
from dujiang.api import app
from dujiang.kit import tracing
from dujiang.tenancy import api
tracing.instrument(None, {}, version="1")()
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
