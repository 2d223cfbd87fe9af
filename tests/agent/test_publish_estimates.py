"""The means of what requests have cost: from the ledger, and written for the servers of the node."""

import time

import pytest
from cost_means import means
from honest_ledger import PLANS, WALL_NS, write

from costtrace.agent.publish_estimates import EstimatePublisher
from costtrace.capture.node_files import cost_estimates
from costtrace.capture.node_files.cost_estimates import TENANT, EstimateReader
from costtrace.core.errors import CosttraceError
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.recent_means import LEAST_REQUESTS, LONGEST_NS, recent_means
from costtrace.ledger.store import Ledger

NOW_NS = WALL_NS + 200 * 10**9


@pytest.fixture
def home(tmp_path):
    write(tmp_path, plans=(PLANS[0], PLANS[2]), requests_per_window=9)  # one in USD with energy, one without a price
    return tmp_path


def change(home, sql):
    ledger = Ledger(home / "ledger.sqlite")
    with ledger.transaction():
        ledger.connection.execute(sql)
    ledger.close()


def recent(home, *, by_tenant=True, now_ns=NOW_NS):
    with open_ledger(home) as store:
        return recent_means(store, now_ns, by_tenant=by_tenant)


def usage(home, condition="part > 0"):
    with open_ledger(home) as store:
        names = ("tenant", "input_tokens", "output_tokens", "prefill_nano", "decode_nano", "prefill_ns", "decode_ns")
        return [
            dict(zip(names, row, strict=True))
            for row in store.rows(f"SELECT {', '.join(names)} FROM usage WHERE cost_nano IS NOT NULL AND {condition}")
        ]


@pytest.mark.parametrize("by_tenant", [True, False])
def test_the_means_are_the_sums_of_the_priced_records_of_each(home, by_tenant):
    rows, groups = usage(home), recent(home, by_tenant=by_tenant)
    assert {each.tenant for each in groups} == ({"acme", "blue"} if by_tenant else {""})
    for each in groups:
        mine = [row for row in rows if row["tenant"] == each.tenant or not by_tenant]
        assert each.requests == len(mine) >= LEAST_REQUESTS
        for name in ("input_tokens", "output_tokens", "prefill_nano", "decode_nano", "prefill_ns", "decode_ns"):
            assert getattr(each, name) == sum(row[name] for row in mine)
        assert (each.currency, each.simulated, each.prefill_uj) == ("USD", True, None)


def test_a_request_on_several_engines_is_one_with_its_prompt_once(home):
    before = {each.tenant: each for each in recent(home)}
    change(home, "UPDATE usage SET part = 2, counted_input = 0, counted_cached = 0 WHERE usage_id % 3 = 0")
    spread = [row for row in usage(home, "part = 2") if row["tenant"] == "acme"]
    now = next(each for each in recent(home) if each.tenant == "acme")
    assert len(spread) > 0
    assert now.requests == before["acme"].requests - len(spread)
    assert now.input_tokens == before["acme"].input_tokens - sum(row["input_tokens"] for row in spread)
    assert (now.output_tokens, now.decode_nano) == (before["acme"].output_tokens, before["acme"].decode_nano)


def test_energy_is_known_where_it_is_of_every_record(home):
    change(home, "UPDATE usage SET gap_ns = 0, prefill_uj = 3, decode_uj = 5")
    (only,) = recent(home, by_tenant=False)
    assert (only.prefill_uj, only.decode_uj) == (3 * only.requests, 5 * only.requests)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE usage SET role = 'decode'",
        "UPDATE usage SET prefill_nano = NULL",
        "DELETE FROM usage WHERE usage_id > 9",
        "DELETE FROM usage",
    ],
    ids=["parts of requests", "no price", "too few", "none"],
)
def test_records_that_make_no_mean_make_none(home, sql):
    change(home, sql)
    assert recent(home) == []


def test_old_records_make_no_mean(home):
    assert recent(home, now_ns=NOW_NS + LONGEST_NS + 10**12) == []


def test_of_two_currencies_the_newest_counts(home):
    change(home, "UPDATE usage SET currency = 'EUR' WHERE usage_id > 20 AND currency != ''")
    assert {each.currency for each in recent(home)} == {"EUR"}


def test_the_agent_writes_means_that_a_server_then_reads(home):
    written = EstimatePublisher(home, TENANT).turn(time.time_ns() // 10**9 * 10**9)
    assert written == [], "the ledger is of another month"
    change(home, f"UPDATE usage SET ended_ns = {time.time_ns()}")
    written = EstimatePublisher(home, TENANT).turn(time.time_ns())
    assert EstimateReader(home, TENANT).means("m-large", "acme") == next(
        each for each in written if each.tenant == "acme"
    )


def test_an_agent_that_cannot_read_its_ledger_leaves_the_old_file(home):
    cost_estimates.write(home, TENANT, [means()], time.time())
    (home / "ledger.sqlite").unlink()
    with pytest.raises(CosttraceError):
        EstimatePublisher(home, TENANT).turn(NOW_NS)
    assert EstimateReader(home, TENANT).means("m", "acme") == means()
