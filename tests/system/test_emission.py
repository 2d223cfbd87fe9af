"""Spans and metrics over real sockets: receivers that come and go, refuse, hang and die."""

import itertools
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from costtrace_lab.demo.server import free_port
from otlp_receiver import (
    PARENT,
    TRACE,
    Receiver,
    attributes,
    cursor,
    emitting,
    engine,
    expected,
    listening,
    new_ledger,
    notices,
    record,
    record_ids,
    spans_of,
    turn,
    until,
    write,
)
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from costtrace.telemetry import DeviceReading, Emission
from costtrace.telemetry.span_ids import span_ids

pytestmark = pytest.mark.usefixtures("otel")


# -- what arrives ------------------------------------------------------------------------------------------------------


def test_everything_in_the_ledger_arrives_once_and_what_is_committed_later_too(tmp_path):
    ledger, receiver = new_ledger(tmp_path, 1_300), Receiver()
    with listening(receiver) as at, emitting(ledger, at.url) as emission:
        assert receiver.wait(lambda: len(receiver.roots) == 1_300)
        emission.publish(write(ledger, turn([record(2_000)], window=1)))
        assert receiver.wait(lambda: len(receiver.roots) == 1_301)
        assert until(emission.drained)
        assert emission.shipped._replace(oldest_ns=0) == (1_301, 0, 0, 0, True, 0, 0)

    assert record_ids(receiver) == expected(*range(1, 1_301), 2_000)
    assert len(receiver.spans) == 4 * 1_301
    assert cursor(ledger) == 1_301
    assert receiver.requests == 4  # three batches and the late one


def test_a_span_arrives_in_its_callers_trace_with_its_figures_and_real_times(tmp_path):
    ledger, receiver = new_ledger(tmp_path), Receiver()
    asked = record(1, traceparent=f"00-{TRACE}-{PARENT}-01")
    write(ledger, turn([asked]))
    with listening(receiver) as at, emitting(ledger, at.url):
        assert receiver.wait(lambda: len(receiver.spans) == 4)

    root = receiver.roots[0]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (asked.arrived_ns, asked.ended_ns)
    values = attributes(root)
    assert values["costtrace.gpu.time"] == 0.03
    assert values["costtrace.cost.amount"] == values["gen_ai.usage.cost"] == 30_000e-9
    assert values["gen_ai.response.finish_reasons"] == ("stop",)
    children = [span for span in receiver.spans if span is not root]
    assert {span.parent_span_id for span in children} == {root.span_id}
    assert {span.name for span in children} == {"costtrace.queue", "costtrace.prefill", "costtrace.decode"}


def test_what_its_caller_does_not_sample_is_passed_over_and_counted(tmp_path):
    ledger, receiver = new_ledger(tmp_path), Receiver()
    unsampled = [record(n, traceparent=f"00-{TRACE}-{PARENT}-00") for n in (1, 2)]
    write(ledger, turn([*unsampled, record(3)]))
    with listening(receiver) as at, emitting(ledger, at.url) as emission:
        assert until(emission.drained)
        assert emission.shipped.unsampled == 2
        assert sum(emission.state.totals.requests.values()) == 3  # metrics have them all

    assert record_ids(receiver) == expected(3)
    assert cursor(ledger) == 3


def test_names_with_any_characters_arrive_as_they_are(tmp_path):
    ledger, receiver = new_ledger(tmp_path), Receiver()
    name = 'ü€😀 "quoted" \\ \n \x00 ' + "x" * 10_000
    write(ledger, turn([record(1, tenant=name, model=name, labels={name: name})]))
    with listening(receiver) as at, emitting(ledger, at.url):
        assert receiver.wait(lambda: receiver.roots)

    values = attributes(receiver.roots[0])
    assert values["tenant.id"] == values["gen_ai.request.model"] == values[f"costtrace.label.{name}"] == name


def test_headers_compression_and_resource_are_opentelemetrys_own(tmp_path, otel):
    otel.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-mlflow-experiment-id=7")
    otel.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    otel.setenv("OTEL_SERVICE_NAME", "billing")
    otel.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod")
    ledger, receiver = new_ledger(tmp_path, 1), Receiver()
    with listening(receiver) as at, emitting(ledger, at.url):
        assert receiver.wait(lambda: receiver.roots)

    assert receiver.headers[0]["x-mlflow-experiment-id"] == "7"
    assert receiver.headers[0]["content-encoding"] == "gzip"
    assert receiver.resources[0]["service.name"] == "billing"
    assert receiver.resources[0]["deployment.environment.name"] == "prod"


def test_the_service_is_costtrace_and_the_same_instance_after_a_restart(tmp_path):
    ledger, receiver = new_ledger(tmp_path, 1), Receiver()
    with listening(receiver) as at:
        for number in (1, 2):
            with emitting(ledger, at.url) as emission:
                assert receiver.wait(lambda number=number: len(receiver.roots) == number)
                emission.publish(write(ledger, turn([record(10 + number)], window=number)))
                assert receiver.wait(lambda number=number: len(receiver.roots) == number + 1)
    assert {r["service.name"] for r in receiver.resources} == {"costtrace"}
    assert len({r["service.instance.id"] for r in receiver.resources}) == 1


def test_without_an_endpoint_nothing_is_sent_and_nobody_waits(tmp_path, caplog):
    caplog.set_level(logging.INFO, "costtrace.telemetry")
    ledger = new_ledger(tmp_path, 3)
    with emitting(ledger) as emission:
        assert emission.drained()
        emission.publish(write(ledger, turn([record(9)], window=1)))
        assert emission.drained()
    said = [r.message for r in caplog.records if "spans go nowhere" in r.message]
    assert len(said) == 1
    assert cursor(ledger) == 0


# -- receivers that are not there --------------------------------------------------------------------------------------


def test_a_receiver_that_is_down_gets_everything_once_when_it_is_back(tmp_path, caplog):
    ledger, receiver, port = new_ledger(tmp_path, 40), Receiver(), free_port()
    with emitting(ledger, f"http://127.0.0.1:{port}") as emission:
        assert until(lambda: not emission.shipped.up)
        for number in range(1, 6):
            emission.publish(write(ledger, turn([record(100 + number)], window=number)))
        assert until(lambda: emission.shipped.behind == 45)
        assert emission.shipped.delay_s > 0
        assert not emission.drained()
        with listening(receiver, port):
            assert receiver.wait(lambda: len(receiver.roots) >= 45)
            assert until(emission.drained)
        assert emission.shipped.failures >= 1
        assert emission.shipped.up

    assert record_ids(receiver) == expected(*range(1, 41), *range(101, 106))
    said = [r.getMessage() for r in caplog.records if r.name == "costtrace.telemetry"]
    assert len([m for m in said if "cannot be sent" in m]) == 1
    assert len([m for m in said if "being sent again" in m]) == 1
    assert not [r for r in caplog.records if r.name.startswith("opentelemetry.exporter")]


def test_a_receiver_that_goes_away_and_comes_back_has_every_span_once(tmp_path):
    ledger, receiver, port = new_ledger(tmp_path), Receiver(), free_port()
    with emitting(ledger, f"http://127.0.0.1:{port}") as emission:
        for window in range(3):
            with listening(receiver, port):
                for number in range(20):
                    emission.publish(write(ledger, turn([record(window * 100 + number)], window=window * 20 + number)))
                assert receiver.wait(lambda window=window: len(receiver.roots) >= 20 * (window + 1) - 10)
            emission.publish(write(ledger, turn([record(window * 100 + 50)], window=100 + window)))
            assert until(lambda: not emission.shipped.up)
        with listening(receiver, port):
            assert until(emission.drained, 40)
    assert record_ids(receiver) == expected(*(w * 100 + n for w in range(3) for n in (*range(20), 50)))


def test_an_agent_killed_between_export_and_cursor_sends_the_same_spans_again(tmp_path):
    ledger, receiver = new_ledger(tmp_path, 60), Receiver()
    child: list[subprocess.Popen] = []

    def kill(message):
        # The batch is here, and its sender dies before it can know.
        if child[0].poll() is None and receiver.requests == 2:
            taken.extend(spans_of(message))
            child[0].send_signal(signal.SIGKILL)
            child[0].wait()
        return 200

    taken = []
    receiver.decide = kill
    script = (
        "import sys, time; from pathlib import Path; from costtrace.telemetry import Emission, EmissionSettings\n"
        "e = Emission(Path(sys.argv[1]), EmissionSettings(batch=20)); e.start(); time.sleep(60)"
    )
    with listening(receiver) as at:
        environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": at.url, "OTEL_METRICS_EXPORTER": "none"}
        with receiver.changed:  # it cannot be answered before we know whom to kill
            child.append(subprocess.Popen([sys.executable, "-c", script, str(ledger.path)], env=environ))
        assert until(lambda: child[0].poll() is not None)
        assert child[0].returncode == -signal.SIGKILL
        assert cursor(ledger) == 20
        with emitting(ledger, at.url, batch=20) as emission:
            assert until(emission.drained)

    counts = record_ids(receiver)
    assert set(counts) == set(expected(*range(1, 61)))
    assert {r for r, n in counts.items() if n == 2} == {f"engine-1/{n}" for n in range(21, 41)}
    twice: dict[bytes, set[bytes]] = {}
    for span in receiver.spans:
        twice.setdefault(span.span_id, set()).add(span.SerializeToString(deterministic=True))
    assert len(twice) == 4 * 60
    assert {len(same) for same in twice.values()} == {1}


def test_stopping_sends_what_is_left(tmp_path):
    ledger, receiver = new_ledger(tmp_path), Receiver()
    with listening(receiver) as at, emitting(ledger, at.url) as emission:
        assert until(emission.drained)
        emission.publish(write(ledger, turn([record(n) for n in range(2_000)])))
        assert emission.stop(10) is True
    assert len(receiver.roots) == 2_000


def test_stopping_does_not_wait_for_a_receiver_that_is_down(tmp_path):
    ledger = new_ledger(tmp_path, 3)
    with emitting(ledger, f"http://127.0.0.1:{free_port()}") as emission:
        assert until(lambda: not emission.shipped.up)
        begun = time.monotonic()
        assert emission.stop(60) is False
        assert time.monotonic() - begun < 15
    assert cursor(ledger) == 0


def hang(receiver):
    """Let the receiver hang; what is set once it does, and what ends it."""
    hanging, release = threading.Event(), threading.Event()

    def decide(_):
        hanging.set()
        return 200 if release.wait(60) else 503

    receiver.decide = decide
    return hanging, release


def test_stopping_waits_no_longer_than_it_may_for_a_receiver_that_hangs(tmp_path, otel):
    otel.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    ledger, receiver = new_ledger(tmp_path, 3), Receiver()
    hanging, release = hang(receiver)
    with listening(receiver) as at, emitting(ledger, at.url) as emission:
        assert hanging.wait(20)
        begun = time.monotonic()
        assert emission.stop(1) is False
        assert time.monotonic() - begun < 15
        assert cursor(ledger) == 0
        release.set()


def test_a_receiver_that_hangs_does_not_hold_up_the_agent(tmp_path):
    ledger, receiver = new_ledger(tmp_path, 1), Receiver()
    hanging, release = hang(receiver)
    with listening(receiver) as at, emitting(ledger, at.url, traces_only=False) as emission:
        assert hanging.wait(20)
        slowest = 0.0
        for window in range(1, 30):
            committed = write(ledger, turn([record(100 + window)], window=window))
            begun = time.monotonic()
            emission.publish(committed)
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.02)
        release.set()
        assert slowest < 0.5
        assert until(emission.drained)


# -- receivers that refuse ---------------------------------------------------------------------------------------------


def test_a_record_that_is_refused_for_good_is_left_out_named_and_holds_up_nobody(tmp_path):
    ledger, receiver = new_ledger(tmp_path, 100), Receiver()
    poison = {span_ids(record(n)).request.to_bytes(8, "big") for n in (17, 18, 99)}
    receiver.decide = lambda message: 400 if any(s.span_id in poison for s in spans_of(message)) else 200
    with listening(receiver) as at, emitting(ledger, at.url) as emission:
        assert until(emission.drained)
        assert emission.shipped.refused == 3

    assert record_ids(receiver) == expected(*(n for n in range(1, 101) if n not in (17, 18, 99)))
    assert cursor(ledger) == 100
    assert sorted(notices(ledger)) == [
        f"record engine-1/{n} was sent no span: its receiver refuses it (HTTP 400 Bad Request). The ledger has it."
        for n in (17, 18, 99)
    ]


def test_a_damaged_row_of_the_ledger_costs_its_own_span_and_no_other(tmp_path):
    ledger, receiver = new_ledger(tmp_path, 30), Receiver()
    ledger.connection.execute("UPDATE usage SET labels = '{torn' WHERE usage_id IN (3, 30)")
    with listening(receiver) as at, emitting(ledger, at.url) as emission:
        assert until(emission.drained)
        assert emission.shipped.refused == 2
    assert record_ids(receiver) == expected(1, 2, *range(4, 30))
    assert len(notices(ledger)) == 2
    assert cursor(ledger) == 30


def test_many_refused_records_are_named_in_a_few_notices(tmp_path):
    ledger, receiver = new_ledger(tmp_path, 60), Receiver()
    poison = {span_ids(record(n)).request.to_bytes(8, "big") for n in range(1, 26)}
    receiver.decide = lambda message: 400 if any(s.span_id in poison for s in spans_of(message)) else 200
    with listening(receiver) as at, emitting(ledger, at.url) as emission:
        assert until(emission.drained)
        assert emission.shipped.refused == 25
    assert len(notices(ledger)) == 11
    assert "15 more" in notices(ledger)[-1]


@pytest.mark.parametrize("status", [400, 401, 404, 301, 503])
def test_a_receiver_that_takes_nothing_is_waited_for_and_nothing_is_left_out(tmp_path, status):
    ledger, receiver = new_ledger(tmp_path, 10), Receiver()
    receiver.decide = lambda _: status
    with listening(receiver) as at, emitting(ledger, at.url) as emission:
        assert until(lambda: emission.shipped.failures >= 2)
        assert cursor(ledger) == 0
        with receiver.changed:
            receiver.decide = lambda _: 200
        assert until(emission.drained)
        assert emission.shipped.refused == 0
    assert record_ids(receiver) == expected(*range(1, 11))
    assert notices(ledger) == []


def test_batches_that_are_too_big_are_made_smaller(tmp_path):
    ledger, receiver = new_ledger(tmp_path, 200), Receiver()
    receiver.decide = lambda message: 413 if len(list(spans_of(message))) > 4 * 30 else 200
    with listening(receiver) as at, emitting(ledger, at.url) as emission:
        assert until(emission.drained)
        assert emission.shipped.refused == 0
    assert record_ids(receiver) == expected(*range(1, 201))


@contextmanager
def grpc_listening(receiver: Receiver):
    """The same receiver over gRPC: its status is INVALID_ARGUMENT for 400, and gRPC's own limit of size holds."""
    import grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service

    class Service(service.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802 the service's own name
            status = receiver.take("/v1/traces", request.SerializeToString(), dict(context.invocation_metadata()))
            if status != 200:
                codes = {400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED}
                context.abort(codes[status], "no")
            return messages.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 200_000)])
    service.add_TraceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_over_grpc_too_a_refused_record_is_left_out_and_big_batches_are_split(tmp_path, otel):
    otel.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    otel.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant-key=abc")
    ledger, receiver = new_ledger(tmp_path, 300), Receiver()
    poison = span_ids(record(17)).request.to_bytes(8, "big")
    receiver.decide = lambda message: 400 if any(s.span_id == poison for s in spans_of(message)) else 200
    with grpc_listening(receiver) as url, emitting(ledger, url) as emission:
        assert until(emission.drained)
        assert emission.shipped.refused == 1
    assert record_ids(receiver) == expected(*(n for n in range(1, 301) if n != 17))
    assert receiver.headers[0]["x-tenant-key"] == "abc"
    assert len(notices(ledger)) == 1


def test_over_grpc_too_a_receiver_that_takes_nothing_is_waited_for(tmp_path, otel):
    otel.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    ledger, receiver = new_ledger(tmp_path, 10), Receiver()
    receiver.decide = lambda _: 401
    with grpc_listening(receiver) as url, emitting(ledger, url) as emission:
        assert until(lambda: emission.shipped.failures >= 2)
        assert cursor(ledger) == 0
        receiver.decide = lambda _: 200
        assert until(emission.drained)
    assert record_ids(receiver) == expected(*range(1, 11))


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_over_otlp_add_up_to_the_ledger_and_point_to_spans(tmp_path):
    ledger, receiver = new_ledger(tmp_path, 5), Receiver()
    traced = record(50, traceparent=f"00-{TRACE}-{PARENT}-01")
    seen: list[tuple[str, str]] = []

    def exemplars() -> bool:
        for metric in receiver.metrics:
            if metric.name == "costtrace.request.cost":
                points = metric.exponential_histogram.data_points
                seen.extend((e.trace_id.hex(), e.span_id.hex()) for p in points for e in p.exemplars)
        return bool(seen)

    with listening(receiver) as at, emitting(ledger, at.url, traces_only=False) as emission:
        emission.device(DeviceReading("GPU-aaaa", "H100", "gpu", 1_000_000, 400_000))
        emission.publish(write(ledger, turn([traced], window=1)))
        assert receiver.wait(exemplars)
        assert receiver.wait(lambda: any(m.name == "hw.power" for m in receiver.metrics))

        def total(name: str) -> float:
            return sum(p.as_double or p.as_int for p in receiver.metric(name).sum.data_points)

        def ledgers(sql: str) -> int:
            return ledger.connection.execute(sql).fetchone()[0]

        assert total("costtrace.gpu.time") == pytest.approx(ledgers("SELECT sum(gpu_ns) FROM posting") / 1e9)
        assert total("costtrace.energy") == pytest.approx(ledgers("SELECT sum(energy_uj) FROM posting") / 1e6)
        assert total("costtrace.cost") == pytest.approx(
            ledgers("SELECT sum(device_nano + energy_nano) FROM posting") / 1e9
        )
        assert total("costtrace.requests") == 6
        gpu_time = receiver.metric("costtrace.gpu.time")
        assert gpu_time.sum.aggregation_temporality == 2  # cumulative
        assert gpu_time.sum.is_monotonic
        kinds = {attributes(p)["costtrace.kind"] for p in gpu_time.sum.data_points}
        assert kinds == {"request", "idle", "overhead", "unobserved"}
        # A continued counter must not look as if all of it had come since this start.
        started = ledgers("SELECT min(started_wall_ns) FROM engine")
        assert {p.start_time_unix_nano for p in gpu_time.sum.data_points} == {started}
    assert set(seen) == {(TRACE, f"{span_ids(traced).request:016x}")}


def deltas(receiver: Receiver, name: str) -> dict[tuple, list]:
    """The points of a counter by attributes, in the order of their arrival."""
    points: dict[tuple, list] = {}
    for metrics in receiver.exports:
        for metric in metrics:
            for point in metric.sum.data_points if metric.name == name else ():
                assert metric.sum.aggregation_temporality == 1
                points.setdefault(tuple(sorted(attributes(point).items())), []).append(point)
    return points


def received(receiver: Receiver, name: str) -> float:
    return math.fsum(p.as_double or p.as_int for points in deltas(receiver, name).values() for p in points)


SENT = {
    "costtrace.cost": "SELECT sum(device_nano + energy_nano) / 1e9 FROM posting",
    "costtrace.gpu.time": "SELECT sum(gpu_ns) / 1e9 FROM posting",
    "costtrace.energy": "SELECT sum(energy_uj) / 1e6 FROM posting",
    "costtrace.unmetered.gpu_time": "SELECT sum(gpu_ns) / 1e9 FROM posting WHERE energy_uj IS NULL",
    "costtrace.device.time": "SELECT sum(request_ns + idle_ns + overhead_ns + unobserved_ns) / 1e9 FROM meter",
    "costtrace.tokens": "SELECT sum(input_tokens + output_tokens) FROM usage",
    "costtrace.wasted.gpu_time": "SELECT sum(wasted_ns) / 1e9 FROM posting",
}


def assert_sent_once(receiver: Receiver, ledger, requests: int) -> None:
    """A receiver that adds up has the ledger; no two windows of a series overlap, and no point says nothing."""
    assert received(receiver, "costtrace.requests") == requests
    for name, sql in SENT.items():
        assert received(receiver, name) == pytest.approx(ledger.connection.execute(sql).fetchone()[0], rel=1e-12), name
    for name in ("costtrace.requests", "costtrace.agent.errors", *SENT):
        for points in deltas(receiver, name).values():
            for before, point in itertools.pairwise(points):
                assert before.time_unix_nano <= point.start_time_unix_nano
            for point in points:
                assert point.start_time_unix_nano <= point.time_unix_nano
                assert point.as_double or point.as_int


@pytest.fixture
def delta(otel):
    otel.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    otel.setenv("OTEL_TRACES_EXPORTER", "none")


def run(ledger, receiver: Receiver, url: str, *records, window: int = 0, sent: bool = True) -> None:
    """An agent's life: it starts, commits *records* if there are any, and has them sent or tries to."""
    with emitting(ledger, url, traces_only=False) as emission:
        emission.health.add("agent.errors")
        for number, one in enumerate(records):
            emission.publish(write(ledger, turn([one], window=window + number)))
        taken, failed = len(receiver.exports), emission._metrics.failures
        if sent:
            assert receiver.wait(lambda: len(receiver.exports) > taken)
        else:
            assert until(lambda: emission._metrics.failures > failed)


def test_with_delta_temporality_restarts_send_nothing_twice(tmp_path, delta):
    ledger, receiver = new_ledger(tmp_path, 41), Receiver()
    with listening(receiver) as at:
        for _ in range(3):
            run(ledger, receiver, at.url)

    assert_sent_once(receiver, ledger, 41)
    assert received(receiver, "costtrace.agent.errors") == 3  # one in each process


def test_with_delta_temporality_an_outage_at_the_restart_loses_nothing(tmp_path, delta):
    ledger, receiver = new_ledger(tmp_path, 10), Receiver()
    with listening(receiver) as at:
        run(ledger, receiver, at.url, *(record(n) for n in range(100, 110)), window=1)
        receiver.status = 503
        run(ledger, receiver, at.url, *(record(n, tenant="new") for n in range(110, 120)), window=20, sent=False)
        receiver.status = 200
        run(ledger, receiver, at.url, *(record(n) for n in range(120, 131)), window=40)
        assert_sent_once(receiver, ledger, 41)
        run(ledger, receiver, at.url)
    assert_sent_once(receiver, ledger, 41)


def test_with_delta_temporality_histograms_of_an_outage_come_afterwards(tmp_path, delta):
    ledger, receiver = new_ledger(tmp_path), Receiver()

    def values() -> int:
        found = [m for metrics in receiver.exports for m in metrics if m.name == "costtrace.request.cost"]
        return sum(p.count for m in found for p in m.exponential_histogram.data_points)

    receiver.status = 503
    with listening(receiver) as at, emitting(ledger, at.url, traces_only=False) as emission:
        for number in range(3):
            failed = emission._metrics.failures
            emission.publish(write(ledger, turn([record(number)], window=number)))
            assert until(lambda failed=failed: emission._metrics.failures > failed)
        assert values() == 0
        receiver.status = 200
        assert receiver.wait(lambda: values() >= 3)
    assert values() == 3


def test_another_receiver_of_deltas_gets_the_ledger_from_its_beginning(tmp_path, delta):
    ledger, first, second = new_ledger(tmp_path, 5), Receiver(), Receiver()
    with listening(first) as at:
        run(ledger, first, at.url)
    with listening(second) as at:
        run(ledger, second, at.url)
    assert_sent_once(first, ledger, 5)
    assert_sent_once(second, ledger, 5)


def test_cumulative_counters_go_on_over_a_restart_and_an_outage(tmp_path, otel):
    otel.setenv("OTEL_TRACES_EXPORTER", "none")
    ledger, receiver = new_ledger(tmp_path, 10), Receiver()
    with listening(receiver) as at:
        run(ledger, receiver, at.url)
        receiver.status = 503
        run(ledger, receiver, at.url, record(20), window=1, sent=False)
        receiver.status = 200
        run(ledger, receiver, at.url)
    values: list[float] = []
    for metrics in receiver.exports:
        of_requests = next(m for m in metrics if m.name == "costtrace.requests").sum
        assert of_requests.aggregation_temporality == 2
        assert {p.start_time_unix_nano for p in of_requests.data_points} == {engine().started_wall_ns}
        values.append(sum(p.as_int for p in of_requests.data_points))
    assert (values[0], values[-1]) == (10, 11)
    assert values == sorted(values)


def test_the_processs_global_providers_are_left_alone(tmp_path):
    from opentelemetry import metrics, trace

    before = metrics.get_meter_provider(), trace.get_tracer_provider()
    ledger, receiver = new_ledger(tmp_path, 1), Receiver()
    with listening(receiver) as at, emitting(ledger, at.url, traces_only=False):
        assert receiver.wait(lambda: receiver.metrics and receiver.roots)
        assert (metrics.get_meter_provider(), trace.get_tracer_provider()) == before


def test_more_label_sets_than_the_sdks_own_limit_are_all_there(tmp_path):
    ledger, receiver = new_ledger(tmp_path), Receiver()
    write(ledger, turn([record(n, tenant=f"t{n}") for n in range(3_000)]))
    with listening(receiver) as at, emitting(ledger, at.url, traces_only=False, tenant_limit=2_500):
        assert receiver.wait(lambda: any(m.name == "costtrace.gpu.time" for m in receiver.metrics))
        points = receiver.metric("costtrace.gpu.time").sum.data_points
    tenants = {attributes(p).get("tenant.id") for p in points}
    assert len(tenants) == 2_500 + 2  # the others, and what belongs to no tenant
    assert not [p for p in points if "otel.metric.overflow" in attributes(p)]


def test_counters_continue_after_a_restart(tmp_path):
    ledger = new_ledger(tmp_path, 4)

    def scrape(emission: Emission) -> dict[tuple, float]:
        headers = {"Accept": "application/openmetrics-text"}
        text = httpx.get(f"http://127.0.0.1:{emission.prometheus_port}/metrics", headers=headers).text
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in parse_openmetrics(text)
            if family.type == "counter"
            for sample in family.samples
        }

    with emitting(ledger, prometheus_port=free_port()) as emission:
        emission.publish(write(ledger, turn([record(8), record(9, tenant="new")], window=1)))
        before = scrape(emission)
    with emitting(ledger, prometheus_port=free_port()) as emission:
        assert scrape(emission) == before
    assert sum(v for key, v in before.items() if key[0] == "costtrace_requests_total") == 6


def test_a_taken_port_costs_the_endpoint_and_nothing_else(tmp_path, caplog):
    ledger, receiver = new_ledger(tmp_path, 2), Receiver()
    with socket.socket() as taken, listening(receiver) as at:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with emitting(ledger, at.url, prometheus_port=taken.getsockname()[1]) as emission:
            assert receiver.wait(lambda: len(receiver.roots) == 2)
            assert emission.prometheus_port == 0
    assert "cannot listen on 127.0.0.1" in caplog.text


def test_metrics_say_once_that_they_cannot_be_sent(tmp_path, caplog, otel):
    otel.setenv("OTEL_TRACES_EXPORTER", "none")
    ledger = new_ledger(tmp_path, 1)
    with emitting(ledger, f"http://127.0.0.1:{free_port()}", traces_only=False) as emission:
        assert until(lambda: emission._metrics.failures >= 2)
        said = [r.getMessage() for r in caplog.records if r.name == "costtrace.telemetry"]
        assert said.count("metrics cannot be sent by OTLP") == 1
