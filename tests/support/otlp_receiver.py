"""Ledgers with requests in them, made by the real `Ledger`, and OTLP receivers on real sockets."""

import gzip
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from costtrace_lab.demo.processes import wait_until
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from costtrace.core.rows import Charge, EngineRow, MeterRow, Posting, UsageCost, UsageRecord
from costtrace.ledger.store import Ledger
from costtrace.telemetry import Emission, EmissionSettings

WALL = 1_790_000_000_000_000_000
MS = 1_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Turn(NamedTuple):
    """What one transaction of an agent holds."""

    postings: list[tuple[Posting, Charge]]
    meter: list[MeterRow]
    records: list[tuple[UsageRecord, UsageCost]]


def engine(engine_id: str = "engine-1", **changes: Any) -> EngineRow:
    row: dict[str, Any] = {
        "engine_id": engine_id,
        "host": "node-7",
        "engine": "vllm",
        "version": "0.32.0",
        "model": "llama",
        "role": "aggregated",
        "dp_rank": 0,
        "devices": ("GPU-aaaa",),
        "device_name": "NVIDIA H100 80GB HBM3",
        "device_kind": "gpu",
        "started_wall_ns": WALL - 60_000 * MS,
        "started_ns": 1_000,
    }
    return EngineRow(**{**row, **changes})


def record(number: int = 1, **changes: Any) -> UsageRecord:
    """One request: 5 ms in the queue, 20 ms of prefill, 75 ms of decode."""
    arrived = WALL + number * MS
    row: dict[str, Any] = {
        "record_id": f"engine-1/{number}",
        "request_key": f"key-{number}",
        "request_id": f"chatcmpl-{number}",
        "engine_id": "engine-1",
        "tenant": f"tenant-{number % 3}",
        "tenant_source": "header",
        "model": "llama",
        "operation": "chat",
        "arrived_ns": arrived,
        "scheduled_ns": arrived + 5 * MS,
        "decode_ns_at": arrived + 25 * MS,
        "ended_ns": arrived + 100 * MS,
        "gpu_ns": 30 * MS,
        "prefill_ns": 10 * MS,
        "decode_ns": 20 * MS,
        "wasted_ns": 1 * MS,
        "energy_uj": 9_000_000,
        "prefill_uj": 4_000_000,
        "decode_uj": 5_000_000,
        "energy_source": "nvml_counter",
        "input_tokens": 100,
        "cached_tokens": 32,
        "output_tokens": 50,
        "computed_tokens": 118,
        "sequences": 1,
        "steps": 51,
        "batch_milli": 7_500,
        "finish_reasons": ("stop",),
        "method": "affine",
    }
    return UsageRecord(**{**row, **changes})


USD = UsageCost(30_000, 10_000, 20_000, "USD", "2026-11")
RATE = ("rate-1", "2026-11", "USD", "h100", "1", "1000", "", "", 1)


def turn(records: list[UsageRecord], cost: UsageCost = USD, *, window: int = 0) -> Turn:
    """A window that these requests share with idle, overhead and unobserved time; its postings add up to its meter."""
    window_ns = WALL + window * 60_000 * MS
    lines = []
    for each in records:
        posting = Posting(
            window_ns=window_ns,
            engine_id=each.engine_id,
            kind="request",
            record_id=each.record_id,
            tenant=each.tenant,
            model=each.model,
            gpu_ns=each.gpu_ns,
            prefill_ns=each.prefill_ns,
            decode_ns=each.decode_ns,
            wasted_ns=each.wasted_ns,
            energy_uj=each.energy_uj,
            prefill_uj=each.prefill_uj,
            decode_uj=each.decode_uj,
            method=each.method,
        )
        known = cost.cost_nano is not None
        charge = Charge("rate-1" if known else "", cost.cost_nano, 0 if known else None)
        lines.append((posting, charge))
    used = sum(each.gpu_ns for each in records)
    rest = {"idle": 700 * MS, "overhead": 40 * MS, "unobserved": 3 * MS}
    for kind, gpu_ns in rest.items():
        reason = "" if kind == "idle" else "startup"
        energy = 50_000 if kind == "idle" else None
        posting = Posting(
            window_ns=window_ns, engine_id="engine-1", kind=kind, reason=reason, gpu_ns=gpu_ns, energy_uj=energy
        )
        lines.append((posting, Charge("rate-1", gpu_ns // 1_000, 7) if kind == "idle" else (posting and Charge())))
    start = window * 60_000 * MS
    meter = MeterRow(
        window_ns=window_ns,
        engine_id="engine-1",
        device="GPU-aaaa",
        start_ns=start,
        end_ns=start + used + sum(rest.values()),
        request_ns=used,
        idle_ns=rest["idle"],
        overhead_ns=rest["overhead"],
        unobserved_ns=rest["unobserved"],
    )
    return Turn(lines, [meter], [(each, cost) for each in records])


def write(ledger: Ledger, what: Turn, *engines: EngineRow) -> Turn:
    """Commit a turn as the agent does."""
    with ledger.transaction():
        for row in engines or (engine(),):
            ledger.put_engine(row)
        ledger.put_rate(RATE)
        ledger.post(what.postings)
        ledger.put_meter(what.meter)
        ledger.put_usage(what.records)
    return what


def new_ledger(path: Path, count: int = 0) -> Ledger:
    ledger = Ledger(path / "ledger.sqlite")
    if count:
        write(ledger, turn([record(n) for n in range(1, count + 1)]))
    return ledger


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(plain(v) for v in value.array_value.values)
    return getattr(value, kind) if kind else None


def attributes(of: Any) -> dict[str, Any]:
    return {a.key: plain(a.value) for a in of.attributes}


class Receiver:
    """An OTLP/HTTP receiver that keeps what it takes and answers as it is set to."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self.metrics: list[Any] = []
        """Those of the last export."""
        self.exports: list[list[Any]] = []
        """The metrics of each export that it took."""
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        self.status = 200
        """The answer to metrics."""
        self.decide: Callable[[ExportTraceServiceRequest], int] = lambda _: 200
        self.changed = threading.Condition()

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        with self.changed:
            self.requests += 1
            self.headers.append(headers)
            status = self.status
            if path == "/v1/metrics":
                self.metrics = [
                    m
                    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
                    for scope in resource.scope_metrics
                    for m in scope.metrics
                ]
                if status == 200:
                    self.exports.append(self.metrics)
            elif path != "/v1/logs":  # other people's
                message = ExportTraceServiceRequest.FromString(body)
                status = self.decide(message)
                if status == 200:
                    for resource in message.resource_spans:
                        self.resources.append(attributes(resource.resource))
                        for scope in resource.scope_spans:
                            self.spans.extend(scope.spans)
            self.changed.notify_all()
        return status

    def wait(self, enough: Callable[[], bool], timeout: float = 20) -> bool:
        with self.changed:
            return self.changed.wait_for(enough, timeout)

    @property
    def roots(self) -> list[Any]:
        return [span for span in self.spans if span.name == "costtrace.request"]

    def metric(self, name: str) -> Any:
        return next(m for m in self.metrics if m.name == name)


def spans_of(message: ExportTraceServiceRequest) -> Iterator[Any]:
    for resource in message.resource_spans:
        for scope in resource.scope_spans:
            yield from scope.spans


class Listening(NamedTuple):
    url: str
    port: int


@contextmanager
def listening(receiver: Receiver, port: int = 0) -> Iterator[Listening]:
    """Serve a receiver on loopback; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            status = receiver.take(self.path, body, {k.lower(): v for k, v in self.headers.items()})
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Listening(f"http://127.0.0.1:{server.server_port}", server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def emitting(ledger: Ledger, endpoint: str | None = None, *, traces_only: bool = True, **settings):
    if endpoint is not None:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    if traces_only:
        os.environ["OTEL_METRICS_EXPORTER"] = "none"
    emission = Emission(ledger.path, EmissionSettings(**settings))
    emission.start()
    try:
        yield emission
    finally:
        emission.stop(5)
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_METRICS_EXPORTER"):
            os.environ.pop(name, None)


def until(true: Callable[[], bool], timeout_s: float = 20) -> bool:
    """Wait for something that nobody announces."""
    return wait_until(true, timeout_s, 0.02)


def record_ids(receiver: Receiver) -> Counter[str]:
    return Counter(attributes(span)["costtrace.record.id"] for span in receiver.roots)


def expected(*numbers: int) -> Counter[str]:
    return Counter(f"engine-1/{n}" for n in numbers)


def cursor(ledger: Ledger) -> int:
    row = ledger.connection.execute("SELECT usage_id FROM cursor").fetchone()
    return row[0] if row else 0


def notices(ledger: Ledger) -> list[str]:
    return [row[0] for row in ledger.connection.execute("SELECT message FROM notice WHERE subject = 'spans'")]
