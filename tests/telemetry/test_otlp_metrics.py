"""The tables of names, the choice of a receiver, and the Prometheus endpoint's text."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
from otlp_receiver import PARENT, RATE, TRACE, engine, new_ledger, record, turn, write
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from telemetry_page import telemetry_markdown

from costtrace.core import semconv
from costtrace.core.errors import ConfigError
from costtrace.telemetry.health import Health
from costtrace.telemetry.metric_state import DeviceReading, MetricState
from costtrace.telemetry.prometheus import MetricCollector, PrometheusEndpoint
from costtrace.telemetry.span_ids import span_ids
from costtrace.telemetry.transport import GRPC, HTTP, Outcome, Target, _grpc_answer, _http_answer, resource, target

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


@pytest.mark.parametrize("openmetrics", [True, False])
@pytest.mark.parametrize("name", ['a"b', "a\\", "a\nb", "a\\nb", "{x=1}", "# EOF", "ü€😀", "a\x00\x1b[31mb", "", " "])
def test_hostile_names_stay_inside_their_label(state, name, openmetrics):
    committed = turn([record(1, tenant=name, model=f"m{name}")])
    state.add(committed.postings, committed.records, committed.meter)
    families = scrape(state, openmetrics=openmetrics)

    family = families.get("costtrace_requests") or families["costtrace_requests_total"]
    assert [(s.labels["tenant"], s.labels["model"], s.value) for s in family.samples] == [(name, f"m{name}", 1)]


def test_distributions_fold_tenants_earlier_than_totals_do():
    state = MetricState(tenant_limit=10, histogram_tenants=2)
    state.totals.know([engine()], {RATE[0]: "USD"})
    committed = turn([record(n, tenant=f"t{n}") for n in range(5)])
    state.add(committed.postings, committed.records, committed.meter)

    counts = {labels[0]: sum(d.counts) for labels, d in state.distributions(semconv.H_GPU_TIME)}
    assert counts == {"t0": 1, "t1": 1, semconv.OTHER_TENANT: 3}


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


def test_a_figure_of_health_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(ValueError, match=r"'journal\.lagg' .* journal\.lag,"):
        Health().set("journal.lagg", 1)


def test_an_address_that_cannot_be_had_is_named_with_the_remedy(state):
    endpoint = PrometheusEndpoint(state, "127.0.0.1", 0)
    try:
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{endpoint.port}.*COSTTRACE_PROMETHEUS_PORT"):
            PrometheusEndpoint(state, "127.0.0.1", endpoint.port)
    finally:
        endpoint.stop()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, Target(HTTP, "http://c:4318")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, Target(GRPC, "http://c:4317")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}, Target(GRPC, "c:4317")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/otlp"}, Target(HTTP, "https://c/otlp")),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            Target(GRPC, "http://c:4318"),
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:9/x",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            Target(HTTP, "http://t:9/x"),
        ),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m:1"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "console"}, None),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "console,otlp"},
            Target(HTTP, "http://c:4318"),
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"},
            Target(HTTP, "http://c:4318"),
        ),
    ],
)
def test_opentelemetrys_variables_say_where_spans_go(environ, expected):
    assert target("traces", environ) == expected


def test_a_protocol_that_nobody_speaks_is_named_with_those_that_are():
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL='http/json'.*grpc or http/protobuf"):
        target("traces", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 429, 502, 503, 504])
def test_a_receiver_that_is_busy_or_set_up_wrongly_is_waited_for(status):
    assert _http_answer(SimpleNamespace(status_code=status, reason="")).outcome is Outcome.AGAIN


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "DELIVERED"), (202, "DELIVERED"), (400, "REFUSED"), (413, "TOO_BIG")]
)
def test_other_statuses_say_what_became_of_the_spans(status, outcome):
    assert _http_answer(SimpleNamespace(status_code=status, reason="")).outcome is Outcome[outcome]


@pytest.mark.parametrize(
    ("code", "details", "outcome"),
    [
        ("UNAVAILABLE", "", "AGAIN"),
        ("UNAUTHENTICATED", "", "AGAIN"),
        ("INVALID_ARGUMENT", "", "REFUSED"),
        ("RESOURCE_EXHAUSTED", "queue is full", "AGAIN"),
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (5 vs. 4)", "TOO_BIG"),
    ],
)
def test_grpc_statuses_say_what_became_of_the_spans(code, details, outcome):
    import grpc

    assert _grpc_answer(grpc.StatusCode[code], details).outcome is Outcome[outcome]


def test_a_ledger_is_the_same_service_instance_in_every_process_unless_the_user_names_it(monkeypatch):
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    key = "service.instance.id"
    ours = resource("node-7:/var/lib/ledger").attributes[key]
    assert ours == "6d4f9ac0-44d9-54bc-90da-ca2df2b093ab"  # made from the name alone
    assert resource("node-8:/var/lib/ledger").attributes[key] != ours
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"{key}=mine")
    assert resource("node-7:/var/lib/ledger").attributes[key] == "mine"


def test_names_are_unique_and_each_metrics_attribute_has_a_label():
    assert max(Counter(m.name for m in semconv.METRICS).values()) == 1
    assert max(Counter(m.prometheus for m in semconv.METRICS).values()) == 1
    for metric in semconv.METRICS:
        labels = [attribute.label for attribute in metric.attributes]
        assert all(labels), metric.name
        assert len(set(labels)) == len(labels), metric.name


def test_the_documentation_has_every_name():
    text = telemetry_markdown()

    for thing in (*semconv.SPANS, *semconv.attributes(), *semconv.METRICS):
        assert f"`{thing.name}`" in text
    assert text == telemetry_markdown()


def test_no_second_or_joule_has_a_name_under_gen_ai_usage():
    under = {a.name: a.unit for a in semconv.attributes() if a.name.startswith("gen_ai.usage.")}

    assert set(under.values()) == {"{token}", "USD"}
