"""Counters for receivers of delta temporality: what has come since the receiver last took an export."""

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from otlp_receiver import RATE, WALL, engine, new_ledger, record, turn, write

from costtrace.core import semconv
from costtrace.ledger.store import Ledger
from costtrace.telemetry.metric_deltas import DeltaExporter, SentNote, deltas_of
from costtrace.telemetry.metric_state import DeviceReading, MetricState, Sent
from costtrace.telemetry.totals import Numbers

SUCCESS, FAILURE = MetricExportResult.SUCCESS, MetricExportResult.FAILURE
FOREIGN = Metric("costtrace.tenants.folded", "", "", Gauge([]))


class Inner(MetricExporter):
    """An exporter that keeps what it is given, and answers as it is set to."""

    def __init__(self, counters=AggregationTemporality.DELTA) -> None:
        super().__init__({sdk.ObservableCounter: counters, sdk.Histogram: AggregationTemporality.DELTA})
        self.answer = SUCCESS
        self.refused = 0
        """How many more exports it refuses, whatever its answer."""
        self.taken: list[Metric] = []

    def export(self, metrics_data, timeout_millis=10_000, **_):
        if self.refused:
            self.refused -= 1
            return FAILURE
        if self.answer is SUCCESS:
            self.taken += metrics_data.resource_metrics[0].scope_metrics[0].metrics
        return self.answer

    def force_flush(self, timeout_millis=10_000):
        return True

    def shutdown(self, timeout_millis=30_000, **_):
        pass

    def sum(self, name: str) -> float:
        return sum(p.value for m in self.taken if m.name == name for p in m.data.data_points)


def collected(*metrics: Metric) -> MetricsData:
    """What the SDK collects."""
    scope = ScopeMetrics(InstrumentationScope(semconv.SCOPE), [FOREIGN, *metrics], "")
    return MetricsData([ResourceMetrics(Resource({}), [scope], "")])


class Agent:
    """A process of an agent, as far as metrics go."""

    def __init__(self, path, receiver: str = "otlp:1") -> None:
        self.ledger, self.inner, self.state = Ledger(path), Inner(), MetricState()
        note = SentNote(path, receiver)
        self.state.load(self.ledger.connection, self.numbers(), note.read(self.ledger.connection))
        self.state.totals.know([engine()], {RATE[0]: "USD"})
        self.exporter = DeltaExporter(self.inner, self.state, note)

    def numbers(self) -> Numbers:
        return Numbers(self.ledger.last_number("posting"), self.ledger.last_number("usage"))

    def commit(self, *records, window: int = 0) -> None:
        committed = write(self.ledger, turn(list(records), window=window))
        self.state.add(committed.postings, committed.records, committed.meter, self.numbers())

    def export(self, answer=SUCCESS) -> None:
        self.inner.answer = answer
        assert self.exporter.export(collected()) is answer


@pytest.fixture
def path(tmp_path):
    return new_ledger(tmp_path, 5).path


def test_an_export_that_fails_is_in_the_next_one_and_nothing_is_sent_twice(path):
    agent = Agent(path)
    agent.export()
    agent.commit(record(11), window=1)
    agent.export(FAILURE)
    agent.commit(record(12), window=2)
    agent.export()
    agent.export()

    assert agent.inner.sum("costtrace.requests") == 7
    windows = [
        (p.start_time_unix_nano, p.time_unix_nano)
        for m in agent.inner.taken
        if m.name == "costtrace.gpu.time"
        for p in m.data.data_points
        if p.attributes["costtrace.kind"] == "idle"
    ]
    assert len(windows) == 2  # what has not changed has no point
    assert windows[0][0] == engine().started_wall_ns
    assert windows[0][1] == windows[1][0]
    assert [m.name for m in agent.inner.taken].count(FOREIGN.name) == 3


def test_a_restart_goes_on_from_what_was_acknowledged(path):
    first = Agent(path)
    first.commit(record(11), window=1)
    first.export()
    first.commit(record(12), window=2)
    first.export(FAILURE)
    second = Agent(path)
    second.commit(record(13), window=3)
    second.export()

    assert first.inner.sum("costtrace.requests") == 6
    assert second.inner.sum("costtrace.requests") == 2
    ledger_cost = first.ledger.connection.execute("SELECT sum(device_nano + energy_nano) FROM posting").fetchone()[0]
    costs = (agent.inner.sum("costtrace.cost") for agent in (first, second))
    assert sum(round(cost * 1e9) for cost in costs) == ledger_cost
    metered = "SELECT sum(request_ns + idle_ns + overhead_ns + unobserved_ns) FROM meter"
    times = (agent.inner.sum("costtrace.device.time") for agent in (first, second))
    assert sum(round(time * 1e9) for time in times) == first.ledger.connection.execute(metered).fetchone()[0]


def test_figures_that_begin_with_the_process_begin_so_for_the_receiver(path):
    for _ in range(2):
        agent = Agent(path)
        for energy_uj in (5_000_000, 7_000_000):
            agent.state.device(DeviceReading("GPU-a", "H100", "gpu", energy_uj))
        agent.state.health.add("agent.errors", 3)
        agent.export()
        agent.export()

        assert (agent.inner.sum("hw.energy"), agent.inner.sum("costtrace.agent.errors")) == (2.0, 3)
        (point,) = next(m for m in agent.inner.taken if m.name == "costtrace.agent.errors").data.data_points
        assert point.start_time_unix_nano == agent.state.started_ns > WALL


def test_a_ledger_that_was_restored_from_a_backup_sends_no_negative_counts(path, tmp_path):
    backup = tmp_path / "backup.sqlite"
    Agent(path).ledger.connection.execute(f"VACUUM INTO '{backup}'")
    agent = Agent(path)
    agent.commit(record(11), window=1)
    agent.export()
    note = agent.ledger.states()["metrics:otlp:1"]
    restored = Agent(backup)
    with restored.ledger.transaction():
        restored.ledger.put_state("metrics:otlp:1", note)
    restored = Agent(backup)
    restored.export()
    restored.commit(record(12), window=2)
    restored.export()

    assert restored.inner.sum("costtrace.requests") == 1
    assert all(p.value > 0 for m in restored.inner.taken for p in m.data.data_points)


def test_histograms_that_are_refused_while_others_are_taken_hold_up_nobody(path):
    agent = Agent(path)
    data = collected(Metric(semconv.H_COST.name, "", "", Histogram([1], AggregationTemporality.DELTA)))
    agent.inner.answer = FAILURE
    for _ in range(100):
        agent.exporter.export(data)
    agent.inner.answer = SUCCESS
    agent.inner.refused = 1
    agent.exporter.export(data)
    assert [m.name for m in agent.inner.taken].count(semconv.H_COST.name) == 1
    assert agent.inner.sum("costtrace.requests") == 5
    agent.inner.taken.clear()
    agent.export()
    assert [m.name for m in agent.inner.taken].count(semconv.H_COST.name) == 59  # of 60 that are kept


def test_where_only_histograms_are_deltas_counters_stay_as_they_are(path):
    agent = Agent(path)
    inner = Inner(AggregationTemporality.CUMULATIVE)
    exporter = DeltaExporter(inner, agent.state, SentNote(path, "otlp:1"))
    counter = Metric("costtrace.requests", "", "", Sum([], AggregationTemporality.CUMULATIVE, is_monotonic=True))
    histogram = Metric(semconv.H_COST.name, "", "", Histogram([1], AggregationTemporality.DELTA))
    inner.answer = FAILURE
    exporter.export(collected(counter, histogram))
    inner.answer = SUCCESS
    exporter.export(collected(counter))

    assert inner.taken == [histogram, FOREIGN, counter]
    assert not [name for name in agent.ledger.states() if name.startswith("metrics:")]


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff", b'{"at_ns": 1}', b"[]"])
def test_a_damaged_note_is_reported_and_the_ledger_is_sent_once_more(path, caplog, damaged):
    agent = Agent(path)
    with agent.ledger.transaction():
        agent.ledger.put_state("metrics:otlp:1", damaged)
    for sent in (5, 0):
        agent = Agent(path)
        agent.export()
        assert agent.inner.sum("costtrace.requests") == sent
    assert caplog.text.count("its note is damaged") == 1


def test_a_note_that_cannot_be_written_is_reported_once_and_written_later(path, caplog, monkeypatch):
    agent = Agent(path)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "put_state", _full)
        agent.export()
        agent.commit(record(11), window=1)
        agent.export()
    assert caplog.text.count("cannot be noted in the ledger: no space left") == 1
    assert agent.inner.sum("costtrace.requests") == 6  # this process knows without the note
    agent.export()
    restarted = Agent(path)
    restarted.export()
    assert restarted.inner.sum("costtrace.requests") == 0


def _full(*_: object) -> None:
    raise OSError("no space left")


@pytest.mark.parametrize("exporter", [GrpcMetricExporter, HttpMetricExporter])
@pytest.mark.parametrize(
    ("preference", "deltas"),
    [
        ("", set()),
        ("cumulative", set()),
        ("lowmemory", {sdk.Histogram}),
        ("delta", {sdk.ObservableCounter, sdk.Histogram}),
    ],
)
def test_deltas_are_made_where_the_variable_asks_for_them(monkeypatch, exporter, preference, deltas):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference or "cumulative")
    if not preference:
        monkeypatch.delenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE")
    assert deltas_of(exporter()) == deltas


def test_a_note_makes_no_ledger_where_there_is_none(tmp_path, caplog):
    note = SentNote(tmp_path / "home" / "ledger.sqlite", "otlp:x")
    note.write(Sent(0, Numbers(0, 0), []))
    assert not (tmp_path / "home").exists()
    assert "cannot be noted" in caplog.text
