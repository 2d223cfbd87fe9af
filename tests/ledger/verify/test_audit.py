"""The trial balance: an honest ledger is in balance, and whatever is changed in it is found and named."""

import sqlite3
from contextlib import closing, contextmanager

import pytest
from honest_ledger import CHEAP, COSTLY, PLANS, WHOLE, WINDOW_NS, Plan, write
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from costtrace.ledger import Ledger
from costtrace.ledger.reader import SqliteStore
from costtrace.ledger.verify.audit import Audit
from costtrace.ledger.verify.money import RunningSum

RUNNING = "engine-f"
TRIES = settings.default.max_examples
"""Examples of the profile; tests with more cases take a multiple."""
BY_AMOUNT = {
    "posting": ("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns", "gap_ns", "energy_uj", "prefill_uj",
                "decode_uj", "device_nano", "energy_nano"),
    "meter": ("start_ns", "end_ns", "request_ns", "idle_ns", "overhead_ns", "unobserved_ns", "energy_uj", "gap_ns"),
    "usage": ("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns", "gap_ns", "energy_uj", "prefill_uj", "decode_uj",
              "cost_nano", "prefill_nano", "decode_nano"),
    "engine": ("started_ns", "ended_ns"),
}  # fmt: skip
BY_NAME = {
    "posting": ("engine_id", "record_id", "tenant", "model", "rate_id", "kind", "window_ns", "method"),
    "meter": ("engine_id", "device", "window_ns"),
    "usage": ("engine_id", "record_id", "tenant", "model", "currency", "price_book", "simulated"),
}
NAMED = {"posting": ("posting_id",), "meter": ("engine_id", "device", "start_ns"), "usage": ("record_id",)}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("honest"))
    with closing(Ledger(path)) as ledger:
        ledger.connection.execute("PRAGMA ignore_check_constraints = 1")
        yield ledger


def discrepancies_in(ledger):
    return list(Audit(SqliteStore(ledger)).discrepancies())


@contextmanager
def changed(ledger, sql, *values):
    ledger.connection.execute("BEGIN")
    try:
        ledger.connection.execute(sql, values)
        yield
    except sqlite3.IntegrityError:
        assume(False)
    finally:
        ledger.connection.execute("ROLLBACK")


def rows_of(ledger, table):
    where = f"WHERE engine_id != '{RUNNING}'"
    return [dict(row) for row in ledger.connection.execute(f"SELECT * FROM {table} {where}")]


def update(table, row, field):
    keys = {"engine": ("engine_id",), **NAMED}[table]
    same = " AND ".join(f"{key} = {row[key]!r}" for key in keys)
    return f"UPDATE {table} SET {field} = ? WHERE {same}"


def names(discrepancy, table, row):
    """The discrepancy names the row, its record, or its engine and window."""
    text = discrepancy.row
    if table == "posting":
        record = bool(row["record_id"]) and row["record_id"] in text
        return f"posting {row['posting_id']} " in text or record or _window(row, text)
    if table == "meter":
        return (row["device"] in text and row["engine_id"] in text) or _window(row, text)
    return row.get("record_id", row["engine_id"]) in text


def _window(row, text):
    return f"engine {row['engine_id']}," in text and str(row["window_ns"]) in text


@pytest.mark.parametrize("seed", range(1, 6))
def test_an_honest_ledger_is_in_balance(tmp_path, seed):
    with closing(Ledger(write(tmp_path, seed=seed, requests_per_window=1 + seed))) as ledger:
        assert discrepancies_in(ledger) == []


def test_an_empty_ledger_is_in_balance(tmp_path):
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert discrepancies_in(ledger) == []


@given(st.data())
@settings(max_examples=4 * TRIES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_amount_that_is_off_is_found_and_named(ledger, data):
    table = data.draw(st.sampled_from(sorted(BY_AMOUNT)))
    row = data.draw(st.sampled_from(rows_of(ledger, table)))
    field = data.draw(st.sampled_from(BY_AMOUNT[table]))
    old = row[field]
    new = data.draw(
        st.one_of(st.none(), st.integers(-5, 5), st.integers(-(2**60), 2**60)).map(
            lambda by: by if by is None or old is None else old + by
        )
    )
    assume(new != old and -(2**63) <= (new or 0) < 2**63)
    assume(table != "posting" or field != "wasted_ns" or row["record_id"])
    assume(new is not None or not field.endswith("_ns"))
    # Idle time has no phases: nothing (NULL) and 0 are the same there.
    phase = field in {"prefill_uj", "decode_uj"}
    assume(not (table == "posting" and phase and not row["record_id"] and not new))
    with changed(ledger, update(table, row, field), new):
        discrepancies = discrepancies_in(ledger)
        assert discrepancies, f"{table}.{field} of {row} became {new}, and nobody noticed"
        assert any(names(item, table, row) for item in discrepancies), discrepancies


@given(st.data())
@settings(max_examples=3 * TRIES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_that_is_somebody_elses_is_found(ledger, data):
    table = data.draw(st.sampled_from(sorted(BY_NAME)))
    row = data.draw(st.sampled_from(rows_of(ledger, table)))
    field = data.draw(st.sampled_from(BY_NAME[table]))
    request = table != "posting" or row["kind"] == "request"
    values = {
        "engine_id": [plan.engine_id for plan in PLANS] + ["nobody"],
        "record_id": ["record-00001", "record-00099", "nobody"] + ([] if request else ["record-00002"]),
        "tenant": ["acme", "blue", ""],
        "model": ["m-large", "m-small"],
        "rate_id": [COSTLY[0], CHEAP[0], WHOLE[0], "nobody", ""],
        "kind": ["request", "idle", "overhead", "unobserved"],
        "window_ns": [row.get("window_ns", 0) + by * WINDOW_NS for by in (-1, 1)],
        "method": [""],
        "device": ["GPU-1", "GPU-9"],
        "currency": ["", "XXX"],
        "price_book": ["", "book-9"],
        "simulated": [0],
    }[field]
    new = data.draw(st.sampled_from(values))
    assume(new != row[field])
    if table == "posting":
        # A row of almost no time changes no sum; the tenant of an idle row is not billed.
        assume(row["gpu_ns"] > 10_000_000)
        assume(request or field not in {"tenant", "model", "method"})
    if table == "usage" and field in {"currency", "price_book"} and new == "":
        assume(row["cost_nano"] is not None)
    with changed(ledger, update(table, row, field), new):
        discrepancies = discrepancies_in(ledger)
        assert discrepancies, f"{table}.{field} of {row} became {new!r}, and nobody noticed"


@given(st.data())
@settings(max_examples=TRIES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_that_is_gone_or_there_twice_is_found(ledger, data):
    table = data.draw(st.sampled_from(["posting", "meter", "usage"]))
    row = data.draw(st.sampled_from(rows_of(ledger, table)))
    assume(table != "posting" or row["gpu_ns"])
    same = " AND ".join(f"{key} = {row[key]!r}" for key in NAMED[table])
    if table == "posting" and data.draw(st.booleans()):
        columns = ", ".join(key for key in row if key != "posting_id")
        sql = f"INSERT INTO posting ({columns}) SELECT {columns} FROM posting WHERE {same}"
    else:
        sql = f"DELETE FROM {table} WHERE {same}"
    with changed(ledger, sql):
        assert discrepancies_in(ledger), sql


def test_a_wrong_rate_is_found(ledger):
    with changed(ledger, "UPDATE rate SET device_numerator = '4400000001' WHERE rate_id = ?", COSTLY[0]):
        assert {item.check for item in discrepancies_in(ledger)} == {"money = rate"}


@pytest.mark.parametrize("broken", ["", "x", "-"])
def test_a_rate_that_is_no_number_is_named(ledger, broken):
    with changed(ledger, "UPDATE rate SET device_denominator = ? WHERE rate_id = ?", broken, COSTLY[0]):
        assert any(item.row == f"rate {COSTLY[0]}" for item in discrepancies_in(ledger))


def test_a_request_may_be_open_only_while_its_engine_runs(ledger):
    (running,) = ledger.connection.execute(
        "SELECT DISTINCT record_id FROM posting WHERE record_id != '' AND engine_id = ? AND record_id NOT IN "
        "(SELECT record_id FROM usage)",
        (RUNNING,),
    ).fetchall()
    assert discrepancies_in(ledger) == []
    tail = ledger.connection.execute("SELECT max(end_ns) FROM meter WHERE engine_id = ?", (RUNNING,)).fetchone()[0]
    with changed(ledger, "UPDATE engine SET ended_ns = ? WHERE engine_id = ?", tail, RUNNING):
        (discrepancy,) = discrepancies_in(ledger)
    assert running[0] in discrepancy.row
    assert "cannot be open any more" in discrepancy.meaning


def test_a_running_engine_may_have_posted_requests_of_the_window_that_it_is_filling(ledger):
    sql = (
        "INSERT INTO posting SELECT NULL, window_ns + ?, engine_id, kind, '', 'record-new', tenant, model, 0, 0, 0, 0, "
        "NULL, NULL, NULL, NULL, 0, method, '', NULL, NULL FROM posting WHERE engine_id = ? AND kind = 'request' "
        "ORDER BY posting_id DESC LIMIT 1"
    )
    with changed(ledger, sql, WINDOW_NS, RUNNING):
        ledger.connection.execute(
            "UPDATE posting SET gpu_ns = 7, decode_ns = 7, gap_ns = 7 WHERE record_id = 'record-new'"
        )
        assert discrepancies_in(ledger) == []
        ledger.connection.execute(
            "UPDATE posting SET window_ns = window_ns - ? WHERE record_id = 'record-new'", (3 * WINDOW_NS,)
        )
        assert discrepancies_in(ledger)


def test_a_shared_device_may_not_bill_more_or_less_than_its_wall_time(ledger):
    with changed(ledger, "UPDATE meter SET idle_ns = idle_ns + 1 WHERE engine_id = 'engine-d' AND start_ns > 0"):
        discrepancies = [item for item in discrepancies_in(ledger) if item.check == "device = wall time"]
    assert len(discrepancies) == 6
    assert "engine-d, engine-e" in discrepancies[0].row
    assert "+1 ns" in discrepancies[0].meaning


def test_engines_that_share_a_device_may_be_cut_at_different_instants(tmp_path):
    # Clocks of two journals are anchored some microseconds apart: their windows are too.
    with closing(Ledger(write(tmp_path, plans=PLANS[3:5]))) as ledger:
        assert discrepancies_in(ledger) == []
        first = ledger.connection.execute("SELECT min(end_ns) FROM meter").fetchone()[0]
        ledger.connection.execute(
            "UPDATE meter SET end_ns = end_ns + 500 WHERE engine_id = 'engine-d' AND end_ns = ?", (first,)
        )
        ledger.connection.execute(
            "UPDATE meter SET start_ns = start_ns + 500 WHERE engine_id = 'engine-d' AND start_ns = ?", (first,)
        )
        assert discrepancies_in(ledger) == []


def test_time_of_a_shared_device_is_open_until_every_engine_has_its_row(tmp_path):
    with closing(Ledger(write(tmp_path, plans=PLANS[3:5]))) as ledger:
        last = ledger.connection.execute("SELECT max(start_ns), max(window_ns) FROM meter").fetchone()
        ledger.connection.execute("UPDATE engine SET ended_ns = 0")
        ledger.connection.execute("UPDATE position SET done = 0")
        ledger.connection.execute("DELETE FROM meter WHERE engine_id = 'engine-e' AND start_ns = ?", (last[0],))
        ledger.connection.execute("DELETE FROM posting WHERE engine_id = 'engine-e' AND window_ns = ?", (last[1],))
        ledger.connection.execute("DELETE FROM usage WHERE engine_id = 'engine-e'")
        audit = Audit(SqliteStore(ledger))
        assert list(audit.discrepancies()) == []
        (device,) = audit.totals()
        assert device.open_ns == WINDOW_NS


def test_monotonic_times_of_two_boots_are_not_compared(tmp_path):
    again = Plan("engine-z", ("GPU-3",), "NVIDIA L40S", (WHOLE,), True, 2, 5)
    with closing(Ledger(write(tmp_path, plans=(PLANS[1], again)))) as ledger:
        assert any(item.check == "device = wall time" for item in discrepancies_in(ledger))
        ledger.connection.execute("UPDATE engine SET boot_id = 'boot-2' WHERE engine_id = 'engine-z'")
        assert discrepancies_in(ledger) == []


def test_two_wrong_amounts_of_money_are_two_discrepancies_and_not_a_thousand(ledger):
    ids = [
        row[0] for row in ledger.connection.execute("SELECT posting_id FROM posting WHERE rate_id = ?", (COSTLY[0],))
    ]
    wrong = (ids[3], ids[20])
    with changed(ledger, f"UPDATE posting SET device_nano = device_nano + 1000 WHERE posting_id IN {wrong}"):
        discrepancies = [item for item in discrepancies_in(ledger) if item.check == "money = rate"]
    assert [item.row.split(" (")[0] for item in discrepancies] == [f"posting {number}" for number in wrong]


@given(
    st.lists(st.integers(0, 10**15), min_size=1, max_size=50), st.integers(0, 10**12), st.integers(1, 10**13), st.data()
)
def test_the_running_sum_is_the_floor_of_the_exact_sum(quantities, numerator, denominator, data):
    running, left, wrong_at = RunningSum(numerator, denominator), 0, data.draw(st.integers(0, len(quantities) - 1))
    for place, quantity in enumerate(quantities):
        nano, left = divmod(left + quantity * numerator, denominator)
        off = 1 if place == wrong_at else 0
        due = running.add(quantity, nano + off)
        assert bool(due) == (place == wrong_at)
        if due:
            assert due == str(nano)
    assert running.due == sum(quantities) * numerator // denominator
    assert running.nano == running.due + 1
