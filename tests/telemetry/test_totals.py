"""Totals equal the ledger, whatever happens to the agent and however many tenants there are."""

import sqlite3

import honest_ledger
import msgspec
from otlp_receiver import MS, RATE, USD, WALL, Turn, engine, new_ledger, record, turn, write

from costtrace.core.rows import UsageCost
from costtrace.ledger.store import Ledger
from costtrace.telemetry.ledger_rows import engines
from costtrace.telemetry.totals import OTHER_TENANT, TenantGate, Totals


def loaded(ledger, limit: int = 1_000) -> Totals:
    totals = Totals(limit)
    totals.load(ledger.connection, engines(ledger.connection).values())
    return totals


NAMES = (
    "gpu_ns",
    "energy_uj",
    "cost_nano",
    "wasted_ns",
    "energy_unknown_ns",
    "cost_unknown_ns",
    "tokens",
    "requests",
    "device_ns",
)


def figures(totals: Totals) -> dict[str, dict]:
    return {name: dict(getattr(totals, name)) for name in NAMES}


def beginnings(totals: Totals) -> dict[str, dict]:
    return {name: dict(getattr(totals, name).begun_ns) for name in NAMES}


def one(connection: sqlite3.Connection, sql: str) -> int:
    return connection.execute(sql).fetchone()[0]


def mixed(window: int):
    """Requests with and without energy, in two models, some of them in no engine's price."""
    records = [record(window * 100 + n, model="lora-a" if n % 4 == 0 else "llama") for n in range(20)]
    records += [
        record(window * 100 + 50, energy_uj=None, prefill_uj=None, decode_uj=None),
        record(window * 100 + 51, prefill_uj=None, decode_uj=None),
        record(window * 100 + 52, finish_reasons=("stop", "length", "stop")),
    ]
    return turn(records, window=window)


def test_what_is_loaded_equals_what_was_added(tmp_path):
    ledger = new_ledger(tmp_path)
    added = Totals()
    added.know([engine()], {RATE[0]: "USD"})
    for window in range(3):
        committed = write(ledger, mixed(window))
        added.add(committed.postings, committed.records, committed.meter)

    assert figures(loaded(ledger)) == figures(added)
    assert beginnings(loaded(ledger)) == beginnings(added)


def test_each_request_and_token_is_counted_once_whatever_engines_had_it(tmp_path):
    """n = 3 over two engines (84 in, 27 out), and a request whose prompt and answer are on different ones (18, 12)."""
    ledger, added = new_ledger(tmp_path), Totals()
    added.know([engine()], {RATE[0]: "USD"})
    elsewhere = {"counted_input": 0, "counted_cached": 0}
    parts = [
        record(1, input_tokens=84, cached_tokens=4, output_tokens=18),
        record(2, input_tokens=84, cached_tokens=80, output_tokens=9, part=2, **elsewhere),
        record(3, input_tokens=18, cached_tokens=0, output_tokens=1, role="prefill", part=2, counted_output=0),
        record(4, input_tokens=18, cached_tokens=17, output_tokens=12, role="decode", **elsewhere),
    ]
    for window, part in enumerate(reversed(parts)):
        committed = write(ledger, turn([part], window=window))
        added.add(committed.postings, committed.records, committed.meter)
    for totals in (added, loaded(ledger)):
        assert sum(totals.requests.values()) == 2
        tokens = {
            kind: sum(n for key, n in totals.tokens.items() if key[2] == kind) for kind in ("input", "cached", "output")
        }
        assert tokens == {"input": 80 + 18, "cached": 4, "output": 27 + 12}
        assert {key[-1] for key in totals.requests} == {"aggregated", "decode"}, "the outcome is the answer's"
    assert figures(loaded(ledger)) == figures(added)
    assert beginnings(loaded(ledger)) == beginnings(added)


def test_each_sum_begins_with_its_own_first_row_and_still_does_after_a_restart(tmp_path):
    ledger = new_ledger(tmp_path)
    added = Totals()
    added.know([engine()], {RATE[0]: "USD"})
    first = record(1, tenant="a", decode_ns=0, gpu_ns=10 * MS, cached_tokens=0, energy_uj=None)
    for window, one_more in ((1, record(2, tenant="a")), (0, first), (2, record(3, tenant="b")), (3, record(4))):
        committed = write(ledger, turn([one_more], window=window))  # a late row comes after a newer one
        added.add(committed.postings, committed.records, committed.meter)

    for totals in (added, loaded(ledger)):
        begun = {(use.tenant, use.phase): at for use, at in totals.gpu_ns.begun_ns.items() if use.kind == "request"}
        assert begun == {
            ("a", "prefill"): WALL,
            ("a", "decode"): WALL + 60_000 * MS,
            ("b", "prefill"): WALL + 120_000 * MS,
            ("b", "decode"): WALL + 120_000 * MS,
            ("tenant-1", "prefill"): WALL + 180_000 * MS,
            ("tenant-1", "decode"): WALL + 180_000 * MS,
        }
        assert {use.tenant: at for use, at in totals.energy_uj.begun_ns.items()}["a"] == WALL + 60_000 * MS
        assert totals.tokens.begun_ns["a", "llama", "cached", "aggregated"] == record(2).ended_ns
        assert totals.requests.begun_ns["a", "llama", "chat", "stop", "aggregated"] == first.ended_ns
    assert beginnings(loaded(ledger)) == beginnings(added)


def test_sums_equal_the_ledger_and_the_meter(tmp_path):
    ledger = new_ledger(tmp_path)
    for window in range(2):
        write(ledger, mixed(window))
    write(ledger, turn([record(900)], cost=UsageCost(), window=2))
    totals, connection = loaded(ledger), ledger.connection

    metered = one(connection, "SELECT sum(request_ns + idle_ns + overhead_ns + unobserved_ns) FROM meter")
    assert sum(totals.gpu_ns.values()) == one(connection, "SELECT sum(gpu_ns) FROM posting") == metered
    assert sum(totals.device_ns.values()) == metered
    assert sum(totals.energy_uj.values()) == one(connection, "SELECT sum(energy_uj) FROM posting")
    known = "device_nano IS NOT NULL AND energy_nano IS NOT NULL"
    cost = one(connection, f"SELECT sum(device_nano + energy_nano) FROM posting WHERE {known}")
    assert sum(totals.cost_nano.values()) == cost
    assert sum(totals.energy_unknown_ns.values()) == one(
        connection, "SELECT sum(gpu_ns) FROM posting WHERE energy_uj IS NULL"
    )
    assert sum(totals.cost_unknown_ns.values()) == one(
        connection, f"SELECT sum(gpu_ns) FROM posting WHERE NOT ({known})"
    )
    assert sum(totals.tokens.values()) == one(connection, "SELECT sum(input_tokens + output_tokens) FROM usage")
    assert sum(totals.requests.values()) == one(connection, "SELECT count(*) FROM usage")


def test_time_of_unknown_energy_is_the_gap_where_a_part_is_known(tmp_path):
    ledger = new_ledger(tmp_path)
    partly, charge = turn([record(1)]).postings[0]
    partly = msgspec.structs.replace(
        partly,
        gpu_ns=10_000 * MS,
        prefill_ns=0,
        decode_ns=10_000 * MS,
        energy_uj=1,
        energy_unknown_ns=9_999 * MS,
        prefill_uj=0,
        decode_uj=1,
    )
    committed = write(ledger, Turn([(partly, charge)], [], []))
    added = Totals()
    added.know([engine()], {RATE[0]: "USD"})
    added.add(committed.postings, committed.records, committed.meter)

    assert list(added.energy_unknown_ns.values()) == list(loaded(ledger).energy_unknown_ns.values()) == [9_999 * MS]


def test_time_of_unknown_energy_equals_what_the_ledger_says(tmp_path):
    ledger = Ledger(honest_ledger.write(tmp_path), read_only=True)

    assert (
        sum(loaded(ledger).energy_unknown_ns.values()) == one(ledger.connection, "SELECT sum(gap_ns) FROM posted") > 0
    )


def test_idle_overhead_and_unobserved_have_rows_of_their_own(tmp_path):
    totals = loaded(new_ledger(tmp_path, 3))

    by_kind = {where.kind: ns for where, ns in totals.gpu_ns.items() if where.kind != "request"}
    assert by_kind == {"idle": 700 * MS, "overhead": 40 * MS, "unobserved": 3 * MS}
    assert {w.model for w in totals.gpu_ns} == {"llama"}  # idle counts for the model that the engine serves


def test_cached_tokens_are_not_counted_as_input_twice(tmp_path):
    totals = loaded(new_ledger(tmp_path, 1))

    assert {key[2]: count for key, count in totals.tokens.items()} == {"input": 68, "cached": 32, "output": 50}


def test_currencies_are_kept_apart(tmp_path):
    ledger = new_ledger(tmp_path, 1)
    other = turn([record(2)], window=1)
    with ledger.transaction():
        ledger.put_rate(("rate-2", "eur", "EUR", *RATE[3:]))
        ledger.post([(p, c._replace(rate_id="rate-2") if c.rate_id else c) for p, c in other.postings])
    totals = loaded(ledger)

    by_currency = {c: sum(n for m, n in totals.cost_nano.items() if m.currency == c) for c in ("USD", "EUR")}
    assert by_currency == {"USD": 30_000 + 700_007, "EUR": 30_000 + 700_007}
    assert sum(totals.cost_nano.values()) == sum(by_currency.values())
    assert USD.currency == "USD"


def test_a_hundred_thousand_tenants_become_a_thousand_and_one_and_nothing_is_lost(tmp_path):
    ledger = new_ledger(tmp_path)
    live = Totals(1_000)
    live.know([engine()], {RATE[0]: "USD"})
    for part in range(10):
        records = [record(part * 10_000 + n, tenant=f"t{part * 10_000 + n}") for n in range(10_000)]
        committed = write(ledger, turn(records, window=part))
        live.add(committed.postings, committed.records, committed.meter)
    after_restart = loaded(ledger, 1_000)

    assert figures(live) == figures(after_restart)
    tenants = {where.tenant for where in live.gpu_ns if where.kind == "request"}
    assert len(tenants) == 1_001
    assert OTHER_TENANT in tenants
    assert live.gate.folded == 99_000
    assert sum(live.gpu_ns.values()) == one(ledger.connection, "SELECT sum(gpu_ns) FROM posting")
    assert sum(live.requests.values()) == 100_000
    assert one(ledger.connection, "SELECT count(DISTINCT tenant) FROM usage") == 100_000


def test_the_first_tenants_keep_their_names():
    gate = TenantGate(2)

    assert [gate(t) for t in ("a", "b", "c", "a", "d", "b", "")] == ["a", "b", OTHER_TENANT, "a", OTHER_TENANT, "b", ""]
    assert gate.folded == 2
