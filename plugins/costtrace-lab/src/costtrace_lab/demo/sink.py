"""A receiver for the demo's spans: takes OTLP over HTTP and writes one JSON line for each span. Loopback only.

It takes the place of Jaeger or Tempo; with OTEL_EXPORTER_OTLP_ENDPOINT set, the demo sends there instead.
"""

import gzip
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

HOST = "127.0.0.1"


class SpanSink:
    """Receives spans on a free loopback port and appends them to *path*. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spans = 0
        self._lock = threading.Lock()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8")
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                response = sink.take(self.path, body)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(response)))
                self.end_headers()
                self.wfile.write(response)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="span-sink", daemon=True)

    @property
    def endpoint(self) -> str:
        """The value for OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://{HOST}:{self._server.server_address[1]}"

    def take(self, path: str, body: bytes) -> bytes:
        """Write the spans of one export; metrics are accepted and dropped (the Prometheus endpoint shows them)."""
        if not path.endswith("/v1/traces"):
            return bytes(ExportMetricsServiceResponse().SerializeToString())
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        line = MessageToDict(span, preserving_proto_field_name=True)
                        line["trace_id"], line["span_id"] = span.trace_id.hex(), span.span_id.hex()
                        line["parent_span_id"] = span.parent_span_id.hex()
                        self._file.write(json.dumps(line) + "\n")
                        self.spans += 1
            self._file.flush()
        return bytes(ExportTraceServiceResponse().SerializeToString())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._file.close()
