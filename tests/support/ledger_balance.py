"""What a ledger says, as values that can be compared, and the tests' own trial balance of it (``==`` only)."""

import sqlite3
from collections import Counter, defaultdict
from itertools import pairwise

KINDS = ("request", "idle", "overhead", "unobserved")
ORDER = {"posting": "posting_id", "meter": "engine_id, device, start_ns", "usage": "usage_id", "engine": "engine_id"}


def table(home, name):
    """All rows of a table as dicts."""
    connection = sqlite3.connect(f"file:{home / 'ledger.sqlite'}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        order = f" ORDER BY {ORDER[name]}" if name in ORDER else ""
        return [dict(row) for row in connection.execute(f"SELECT * FROM {name}{order}")]
    finally:
        connection.close()


def rows(home):
    """The bill as a multiset of rows, without the numbers that only say in which order rows were written."""
    found = Counter()
    for name, number in (("posting", "posting_id"), ("usage", "usage_id"), ("meter", ""), ("engine", ""), ("rate", "")):
        for row in table(home, name):
            row.pop(number, None)
            found[name, *row.items()] += 1
    return found


def check(home):
    """Everything has to add up."""
    postings, meter, usage, engines = (table(home, name) for name in ("posting", "meter", "usage", "engine"))
    check_windows(postings, meter)
    check_devices(meter, engines)
    check_usage(postings, usage)
    check_money(home, postings, usage)
    for position in table(home, "position"):
        assert position["done"] == 1
    assert not [state["name"] for state in table(home, "state") if state["name"].startswith("engine:")]


def check_windows(postings, meter):
    posted, metered = defaultdict(int), defaultdict(int)
    for row in postings:
        posted[row["engine_id"], row["window_ns"], row["kind"]] += row["gpu_ns"]
    for row in meter:
        for kind in KINDS:
            metered[row["engine_id"], row["window_ns"], kind] += row[f"{kind}_ns"]
    assert {k: v for k, v in posted.items() if v} == {k: v for k, v in metered.items() if v}


def given(row):
    return sum(row[f"{kind}_ns"] for kind in KINDS)


def check_devices(meter, engines):
    lives = defaultdict(list)
    for engine in engines:
        assert engine["ended_ns"] > 0
        for device in sorted({row["device"] for row in meter if row["engine_id"] == engine["engine_id"]}):
            mine = [r for r in meter if (r["engine_id"], r["device"]) == (engine["engine_id"], device)]
            assert mine[0]["start_ns"] == engine["started_ns"]
            assert mine[-1]["end_ns"] == engine["ended_ns"]
            assert all(before["end_ns"] == after["start_ns"] for before, after in pairwise(mine))
            assert all(r["shared"] or given(r) == r["end_ns"] - r["start_ns"] for r in mine)
            lives[device].append((engine["started_ns"], engine["ended_ns"]))
    for device, intervals in lives.items():
        total = reached = 0
        for start, end in sorted(intervals):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
        assert sum(given(r) for r in meter if r["device"] == device) == total


def check_usage(postings, usage):
    posted = defaultdict(lambda: [0, 0, 0, 0])
    fields = ("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns")
    for row in postings:
        for i, name in enumerate(fields if row["record_id"] else ()):
            posted[row["record_id"]][i] += row[name]
    assert posted.keys() <= {row["record_id"] for row in usage}
    for row in usage:
        assert [row[name] for name in fields] == posted[row["record_id"]]
        assert 0 <= row["wasted_ns"] <= row["gpu_ns"]


def check_money(home, postings, usage):
    """Device money, by engine and rate, is the floor of the exact amount; a record costs what its postings cost."""
    rates = {rate["rate_id"]: rate for rate in table(home, "rate")}
    charged, time_ns, cost = defaultdict(int), defaultdict(int), defaultdict(int)
    for row in postings:
        if row["rate_id"]:
            charged[row["engine_id"], row["rate_id"]] += row["device_nano"]
            time_ns[row["engine_id"], row["rate_id"]] += row["gpu_ns"]
            cost[row["record_id"]] += row["device_nano"] + (row["energy_nano"] or 0)
    for (engine_id, rate_id), nano in charged.items():
        rate = rates[rate_id]
        exact = time_ns[engine_id, rate_id] * int(rate["device_numerator"])
        assert nano == exact // int(rate["device_denominator"])
    for row in usage:
        if row["cost_nano"] is not None:
            assert row["cost_nano"] == cost[row["record_id"]] == row["prefill_nano"] + row["decode_nano"]
