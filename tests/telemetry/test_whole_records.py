"""Histograms have one value for each request, whatever engines of the node had it."""

from otlp_receiver import MS, USD, record, turn

from costtrace.telemetry.metric_state import MetricState
from costtrace.telemetry.whole_records import WAIT_S, WholeRecords

BOTH = {"tenant": "acme", "request_key": "4f1d0c", "input_tokens": 84}
FIRST = record(1, **BOTH, output_tokens=18)
SECOND = record(2, **BOTH, output_tokens=9, part=2, counted_input=0, counted_cached=0)
OTHER = record(3, request_key="other")


class Node:
    """Two engines, and a clock."""

    def __init__(self):
        self.at_s, self.open = 0.0, {"4f1d0c"}
        self.wholes = WholeRecords(lambda: self.at_s)

    def take(self, at_s, *records):
        self.at_s = at_s
        return self.wholes.take([(one, USD) for one in records], self.open.__contains__)


def test_a_record_waits_for_the_engine_that_works_on_the_rest_and_a_little_longer():
    node = Node()
    assert node.take(0, FIRST, OTHER) == []
    assert [one.request_key for one, _ in node.take(60, SECOND)] == ["other"]
    node.open.clear()
    assert node.take(60 + WAIT_S - 0.1) == []
    ((whole, cost),) = node.take(60 + WAIT_S)
    assert (whole.record_id, whole.gpu_ns, whole.energy_uj) == (FIRST.record_id, 60 * MS, 18_000_000)
    assert whole.counts() == (1, 84, FIRST.cached_tokens, 27)
    assert cost == USD._replace(cost_nano=60_000, prefill_nano=20_000, decode_nano=40_000)
    assert node.take(1_000) == []


def test_with_one_engine_nothing_waits_and_what_waited_goes_on():
    node = Node()
    node.take(0, FIRST, SECOND)
    assert [one.request_key for one, _ in node.wholes.take([(OTHER, USD)], None)] == ["4f1d0c", "other"]


def test_an_unknown_cost_of_one_part_is_no_value():
    wholes = WholeRecords()
    ((_, cost),) = wholes.take([(FIRST, USD), (SECOND, USD._replace(cost_nano=None))], None)
    assert (cost.cost_nano, cost.decode_nano) == (None, 40_000)


def test_ids_of_one_engine_and_other_tenants_stay_apart():
    local = [record(n, request_key="7", part=n, tenant="acme", tenant_source="process") for n in (1, 2)]
    others = [record(n, request_key="8", part=n, tenant=f"tenant-{n}") for n in (1, 2)]
    assert len(WholeRecords().take([(one, USD) for one in (*local, *others)], None)) == 4


def test_the_histograms_count_what_is_whole():
    state, made = MetricState(), turn([FIRST, SECOND])
    state.add(made.postings, made.records, made.meter, None, WholeRecords().take(made.records, None))
    assert [sum(one.counts) for one in state._distributions["costtrace.request.gpu_time"].values()] == [1]
