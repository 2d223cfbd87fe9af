"""What emission costs: spans to a receiver, totals, metrics, the start on a ledger with history.

    python benchmarks/bench_emission.py [--requests 20000] [--protocol http|grpc]

Each figure is of the emitting process alone, pinned to one core (the receiver runs on another): requests a second
with a core to itself, and the share of that core at 500 requests a second, which is what an agent has to keep up with.
Before anything is timed, its answer is checked: every span arrived, once, and the totals equal the ledger.
"""

import argparse
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from otlp_receiver import Receiver, engine, listening, new_ledger, record, turn, write

from costtrace.ledger.store import Ledger
from costtrace.telemetry import Emission, EmissionSettings
from costtrace.telemetry.ledger_rows import engines, usage_after
from costtrace.telemetry.metric_state import MetricState
from costtrace.telemetry.otel_environment import resource as own_resource
from costtrace.telemetry.spans import SpanBuilder

RATE = 500
"""Finished requests a second that an agent has to keep up with."""
RECEIVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def pin() -> None:
    """This process to the first core, what it starts to the others."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])


def say(what: str, count: int, wall_s: float, used_s: float) -> None:
    share = used_s / count * RATE
    print(f"{what:<58}{count / wall_s:>10,.0f} /s {used_s / count * 1e6:>9.1f} us CPU each {share:>8.1%} of a core")


def timed(what: str, count: int, work: Callable[[], object]) -> None:
    wall, used = time.perf_counter(), cpu_s()
    work()
    say(what, count, time.perf_counter() - wall, cpu_s() - used)


def filled(directory: Path, count: int) -> Ledger:
    ledger = new_ledger(directory)
    for begin in range(0, count, 1_000):
        write(ledger, turn([record(n) for n in range(begin, min(begin + 1_000, count))], window=begin))
    return ledger


def check(ledger: Ledger, count: int) -> None:
    """Right before fast: all spans arrive once, and the totals are the ledger's."""
    receiver = Receiver()
    with listening(receiver) as at:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = at.url
        emission = Emission(ledger.path, EmissionSettings())
        emission.start()
        assert receiver.wait(lambda: len(receiver.roots) == count, 120)
        assert len({span.span_id for span in receiver.spans}) == len(receiver.spans) == 4 * count
        posted = ledger.connection.execute("SELECT sum(gpu_ns) FROM posting").fetchone()[0]
        assert sum(emission.state.totals.gpu_ns.values()) == posted
        assert emission.stop()
    print(f"checked: {count} requests, {4 * count} spans, each once; totals equal the ledger\n")


def ship(ledger: Ledger, count: int, protocol: str, directory: Path) -> None:
    """From rows to a receiver that throws everything away, in a process of its own."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-c", RECEIVER, str(port)]
    if protocol == "grpc":
        spec = find_spec("rotel")
        assert spec is not None
        assert spec.origin is not None
        agent = str(Path(spec.origin).parent / "rotel-agent")
        command = [agent, "start", "--exporter", "blackhole", "--pid-file", str(directory / "pid")]
        command += ["--otlp-grpc-endpoint", f"127.0.0.1:{port}", "--otlp-http-endpoint", f"127.0.0.1:{port + 1}"]
    all_cores = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0) or os.sched_getaffinity(0)
    with (directory / "receiver.log").open("w") as log:
        receiver = subprocess.Popen(command, stdout=log, stderr=log)
    os.sched_setaffinity(receiver.pid, all_cores)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        os.environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if protocol == "grpc" else "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
        }
        emission = Emission(ledger.path, EmissionSettings())
        wall, used = time.perf_counter(), cpu_s()
        emission.start()
        while emission.shipped.sent < count:
            time.sleep(0.02)
        say(f"ledger -> spans -> OTLP {protocol}", count, time.perf_counter() - wall, cpu_s() - used)
        emission.stop()
    finally:
        receiver.terminate()
        receiver.wait()
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            del os.environ[name]


def parts(ledger: Ledger, count: int) -> None:
    """The same, taken apart."""
    rows = []
    timed("  of which: read and decode rows", count, lambda: rows.extend(usage_after(ledger.connection, 0, count).rows))
    builder, known = SpanBuilder(own_resource("bench")), engines(ledger.connection)
    spans = []

    def build() -> None:
        spans.extend(builder.build(row.record, row.cost, known[row.record.engine_id]) for row in rows)

    timed("  of which: build spans", count, build)

    def encode() -> None:
        for begin in range(0, count, 512):
            encode_spans([s for one in spans[begin : begin + 512] for s in one]).SerializePartialToString()

    timed("  of which: encode protobuf (the official encoder)", count, encode)


def publish(count: int, directory: Path) -> None:
    """What the agent's own thread pays: totals and distributions, with all metrics on and 1,000 tenants."""
    receiver = Receiver()
    ledger = new_ledger(directory, 1)
    with listening(receiver) as at:
        os.environ |= {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{at.url}/v1/metrics"}
        os.environ |= {"OTEL_METRIC_EXPORT_INTERVAL": "1e9"}
        emission = Emission(ledger.path, EmissionSettings())
        emission.start()
        records = [record(1_000 + n, tenant=f"t{n % 1_000}") for n in range(count)]
        turns = [turn(records[begin : begin + 100], window=begin) for begin in range(0, count, 100)]
        timed("publish: totals, histograms, exemplars", count, lambda: [emission.publish(each) for each in turns])
        assert sum(emission.state.totals.requests.values()) == count + 1
        assert emission._metrics is not None
        used = cpu_s()
        emission._metrics.flush(60)
        points = sum(len(metric.sum.data_points) for metric in receiver.metrics)
        print(
            f"  one export of all metrics, {points:,} points, receiver included: {(cpu_s() - used) * 1e3:,.0f} ms CPU"
        )
        emission.stop()
    for variable in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[variable]


def restart(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        ledger = filled(Path(name), count)
        state = MetricState()
        wall = time.perf_counter()
        state.load(ledger.connection)
        assert sum(state.totals.requests.values()) == count
        print(f"start on a ledger of {count:,} requests: totals in {time.perf_counter() - wall:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--protocol", choices=("http", "grpc", "both"), default="both")
    arguments = parser.parse_args()
    count = arguments.requests
    assert engine().engine_id == record().engine_id
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "small").mkdir()
        check(filled(Path(name) / "small", 2_000), 2_000)
        ledger = filled(Path(name), count)
        pin()
        for protocol in ("http", "grpc") if arguments.protocol == "both" else (arguments.protocol,):
            ledger.connection.execute("DELETE FROM cursor")
            ship(ledger, count, protocol, Path(name))
        parts(ledger, count)
        (Path(name) / "publish").mkdir()
        publish(count, Path(name) / "publish")
    restart(count)


if __name__ == "__main__":
    main()
