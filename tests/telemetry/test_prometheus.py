"""The text of the Prometheus endpoint, as prometheus_client's parser reads it."""

import math
import time

import pytest
from otlp_receiver import MS, PARENT, RATE, TRACE, USD, WALL, engine, new_ledger, record, turn, write
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from costtrace.core.errors import ConfigError
from costtrace.telemetry.metric_state import DeviceReading, MetricState
from costtrace.telemetry.prometheus import MetricCollector, PrometheusEndpoint, application
from costtrace.telemetry.span_ids import span_ids

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def state() -> MetricState:
    metric_state = MetricState()
    metric_state.totals.know([engine()], {RATE[0]: "USD"})
    return metric_state


def scrape(state: MetricState, *, openmetrics: bool = True):
    """The families as prometheus_client's own parser reads them from what a scraper gets."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MetricCollector(state))
    encode, _ = choose_encoder(OPENMETRICS if openmetrics else "")
    parse = parse_openmetrics if openmetrics else parse_text
    return {family.name: family for family in parse(encode(registry).decode())}


def total(family) -> float:
    return math.fsum(sample.value for sample in family.samples if sample.name.endswith("_total"))


@pytest.mark.parametrize("openmetrics", [True, False])
def test_the_endpoints_sums_equal_the_ledgers(tmp_path, state, openmetrics):
    ledger = new_ledger(tmp_path)
    for window in range(3):
        write(ledger, turn([record(window * 10 + n) for n in range(7)], window=window))
    state.load(ledger.connection)
    families = scrape(state, openmetrics=openmetrics)

    def ledgers(sql: str) -> int:
        return ledger.connection.execute(sql).fetchone()[0]

    # the text parser keeps _total in the family's name
    def scraped(name: str) -> float:
        return total(families.get(name) or families[f"{name}_total"])

    assert scraped("costtrace_gpu_time_seconds") == pytest.approx(ledgers("SELECT sum(gpu_ns) FROM posting") / 1e9)
    assert scraped("costtrace_energy_joules") == pytest.approx(ledgers("SELECT sum(energy_uj) FROM posting") / 1e6)
    known = ledgers("SELECT sum(device_nano + energy_nano) FROM posting")
    assert scraped("costtrace_cost") == pytest.approx(known / 1e9)
    assert scraped("costtrace_device_time_seconds") == pytest.approx(scraped("costtrace_gpu_time_seconds"))
    assert scraped("costtrace_requests") == 21


def test_histograms_point_to_the_spans_of_requests(state):
    traced = record(1, traceparent=f"00-{TRACE}-{PARENT}-01")
    committed = turn([traced])
    state.add(committed.postings, committed.records, committed.meter)
    family = scrape(state)["costtrace_request_cost"]

    exemplars = [sample.exemplar for sample in family.samples if sample.exemplar]
    assert [e.labels for e in exemplars] == [{"trace_id": TRACE, "span_id": f"{span_ids(traced).request:016x}"}]
    assert exemplars[0].value == pytest.approx(30_000e-9)
    buckets = [s for s in family.samples if s.name.endswith("_bucket")]
    within = {float(s.labels["le"]): s.value for s in buckets}
    assert (within[1e-5], within[3e-5], within[1e-4], within[math.inf]) == (0, 1, 1, 1)  # it cost 3e-5
    assert [s.value for s in buckets] == sorted(s.value for s in buckets)
    assert {s.value for s in family.samples if s.name.endswith("_count")} == {1}


def test_a_request_that_is_not_sampled_counts_but_is_no_exemplar(state):
    committed = turn([record(1, traceparent=f"00-{TRACE}-{PARENT}-00")])
    state.add(committed.postings, committed.records, committed.meter)
    family = scrape(state)["costtrace_request_gpu_time_seconds"]

    assert [s.value for s in family.samples if s.name.endswith("_count")] == [1]
    assert not [s for s in family.samples if s.exemplar]


def test_the_energy_of_a_part_of_a_request_is_no_value_of_the_histogram(state):
    committed = turn([record(1), record(2, energy_unknown_ns=29 * MS), record(3, energy_uj=None)])
    state.add(committed.postings, committed.records, committed.meter)
    families = scrape(state)

    assert families["costtrace_request_energy_joules"].samples[-1].value == 9.0  # the sum
    counts = [s.value for s in families["costtrace_request_energy_joules"].samples if s.name.endswith("_count")]
    assert sum(counts) == 1


@pytest.mark.parametrize("openmetrics", [True, False])
@pytest.mark.parametrize("name", ['a"b', "a\\", "a\nb", "a\\nb", "{x=1}", "# EOF", "ü€😀", "a\x00\x1b[31mb", "", " "])
def test_hostile_names_stay_inside_their_label(state, name, openmetrics):
    committed = turn([record(1, tenant=name, model=f"m{name}")])
    state.add(committed.postings, committed.records, committed.meter)
    families = scrape(state, openmetrics=openmetrics)

    family = families.get("costtrace_requests") or families["costtrace_requests_total"]
    assert [(s.labels["tenant"], s.labels["model"], s.value) for s in family.samples] == [(name, f"m{name}", 1)]


def test_a_device_counts_from_its_first_reading_and_never_backwards(state):
    for energy in (5_000_000, 7_000_000, 1_000_000, 2_500_000):  # the driver was reset after the second
        state.device(DeviceReading("GPU-a", "H100", "gpu", energy, 350_000))
    families = scrape(state)

    assert total(families["hw_energy_joules"]) == 2.0 + 1.5
    assert families["hw_power_watts"].samples[0].value == 350.0
    assert families["hw_power_watts"].samples[0].labels == {
        "device_id": "GPU-a",
        "device": "H100",
        "device_kind": "gpu",
        "simulated": "",
    }


def test_what_is_known_of_a_devices_energy_is_shown_and_a_simulated_one_says_so(state):
    known = DeviceReading("GPU-a", "H100", "gpu", 1, 350_000, True, 71.5, -0.02, 0.03, 0.06)
    state.device(known)
    state.device(DeviceReading("GPU-b", "H100", "gpu", 1, 350_000))
    families = scrape(state)

    for name, value in (
        ("costtrace_device_idle_power_watts", 71.5),
        ("costtrace_device_energy_residual_ratio", -0.02),
        ("costtrace_device_energy_model_error_ratio", 0.03),
        ("costtrace_device_sensor_lag_seconds", 0.06),
    ):
        (sample,) = families[name].samples  # of the other device it is not known, and not 0
        assert (sample.labels["device_id"], sample.value) == ("GPU-a", value)
        assert sample.labels["simulated"] == "true"
    assert {s.labels["device_id"] for s in families["hw_power_watts"].samples if s.labels.get("simulated")} == {"GPU-a"}


def test_a_device_without_a_counter_has_no_energy_and_not_zero(state):
    state.device(DeviceReading("CPU-n", "Xeon", "cpu"))

    assert not {"hw_energy_joules", "hw_power_watts"} & set(scrape(state))


def test_health_is_shown_once_it_is_known(state):
    assert "costtrace_journal_lag_bytes" not in scrape(state)
    state.health.set("journal.lag", 4096)
    state.health.add("agent.errors")
    state.health.add("agent.errors", 2)
    state.health.follow("records.unsent", lambda: 17)
    families = scrape(state)

    assert families["costtrace_journal_lag_bytes"].samples[0].value == 4096
    assert total(families["costtrace_agent_errors"]) == 3
    assert families["costtrace_records_unsent"].samples[0].value == 17


def created(state: MetricState) -> dict[tuple, float]:
    """When each series began, as a scraper of OpenMetrics gets it from the endpoint."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse_openmetrics(answered(state, OPENMETRICS))
        for sample in family.samples
        if sample.name.endswith("_created")
    }


def answered(state: MetricState, accept: str) -> str:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "HTTP_ACCEPT": accept}
    return b"".join(application(state)(environ, lambda _status, _headers: None)).decode()


def test_each_series_says_when_it_began_and_says_the_same_after_a_restart(tmp_path, state):
    ledger = new_ledger(tmp_path)
    for window, tenant in ((1, "old"), (2, "new"), (0, "old"), (3, "new")):  # one comes late
        committed = write(ledger, turn([record(window, tenant=tenant)], window=window))
        state.add(committed.postings, committed.records, committed.meter)
    restarted = MetricState()
    restarted.load(ledger.connection)

    of_totals = {key: at for key, at in created(state).items() if not key[0].startswith("costtrace_request_")}
    assert created(restarted) == of_totals
    costs = {
        dict(labels)["tenant"]: at for (name, *labels), at in of_totals.items() if name == "costtrace_cost_created"
    }
    window_s, wall_s = 60, WALL / 1e9
    assert costs == {"": wall_s, "old": wall_s, "new": wall_s + 2 * window_s}
    requests = {dict(key[1:])["tenant"]: at for key, at in of_totals.items() if key[0] == "costtrace_requests_created"}
    ended_s = {"old": record(0).ended_ns / 1e9, "new": record(2).ended_ns / 1e9}
    assert requests == pytest.approx(ended_s, abs=1e-6)  # doubles of this size have steps of 0.2 us
    shown = {(s.name, *sorted(s.labels.items())) for f in scrape(state).values() for s in f.samples}
    counters = {(key[0].removesuffix("_total"), *key[1:]) for key in shown if key[0].endswith("_total")}
    assert counters == {(key[0].removesuffix("_created"), *key[1:]) for key in of_totals}


def test_what_begins_with_the_process_says_so(state):
    before_s = state.started_ns / 1e9
    state.health.add("agent.errors")
    state.device(DeviceReading("GPU-a", "H100", "gpu", 1))
    committed = turn([record(1, ended_ns=WALL)])  # it ended before this process began
    state.add(committed.postings, committed.records, committed.meter)
    late = record(2, tenant="new", ended_ns=time.time_ns() + 10**9)
    state.add([], [(late, USD)], [])
    begun = {(key[0], dict(key[1:]).get("tenant")): at for key, at in created(state).items()}

    assert begun["costtrace_agent_errors_created", None] == pytest.approx(before_s, abs=1e-6)
    assert before_s - 1e-6 <= begun["hw_energy_joules_created", None] <= time.time()
    assert begun["costtrace_request_cost_created", "tenant-1"] == pytest.approx(before_s, abs=1e-6)
    assert begun["costtrace_request_cost_created", "new"] == pytest.approx(late.ended_ns / 1e9, abs=1e-6)


def test_plain_text_has_no_series_that_say_when_others_began(state):
    committed = turn([record(1)])
    state.add(committed.postings, committed.records, committed.meter)

    for accept in ("", "text/plain", "text/plain;version=0.0.4", "*/*"):
        assert "costtrace_requests_total" in answered(state, accept)
        assert "_created" not in answered(state, accept)
    assert "costtrace_requests_created" in answered(state, OPENMETRICS)


def test_an_address_that_cannot_be_had_is_named_with_the_remedy(state):
    endpoint = PrometheusEndpoint(state, "127.0.0.1", 0)
    try:
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{endpoint.port}.*COSTTRACE_PROMETHEUS_PORT"):
            PrometheusEndpoint(state, "127.0.0.1", endpoint.port)
    finally:
        endpoint.stop()
