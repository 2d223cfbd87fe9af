"""The tests' own trial balance: does everything add up? Independent of `costtrace.ledger.verify`, and with ``==`` only.

It reads the four kinds of rows as plain mappings, from a ledger on disk or straight from attribution, and knows none of
the code that it checks: no query, no rounding rule, no table of costtrace's.

    check(books_in(home))              a home whose engines have all ended
    check_open(books_in(home))         a home whose engines may still run
    check(books_of(rows, engines))     what attribution yields, before it has a price
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

KINDS = ("request", "idle", "overhead", "unobserved")
TIMES = ("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns")

Line = Mapping[str, Any]


class Books(NamedTuple):
    """All rows of one bill."""

    postings: Sequence[Line]
    meter: Sequence[Line]
    usage: Sequence[Line]
    engines: Sequence[Line]
    rates: Mapping[str, Line]
    """By id. Empty: nothing has a price yet."""


def books_of(rows, engines) -> Books:
    """The books of attribution's own rows: time and energy, no money."""

    def plain(structs: Iterable[Any]) -> list[Line]:
        return [{name: getattr(each, name) for name in each.__struct_fields__} for each in structs]

    return Books(plain(rows.postings), plain(rows.meter), plain(rows.records), plain(engines), {})


def books_in(home: Path) -> Books:
    """The books of the ledger below *home*, all of one moment: its agent may be writing them."""
    with closing(opened(home)) as ledger:
        ledger.execute("BEGIN")
        meter = lines(ledger, "meter", "engine_id, device, start_ns")
        engines = [{**row, "devices": json.loads(row["devices"])} for row in lines(ledger, "engine")]
        rates = {row["rate_id"]: row for row in lines(ledger, "rate")}
        postings, usage = lines(ledger, "posting", "posting_id"), lines(ledger, "usage", "usage_id")
    return Books(postings, meter, usage, engines, rates)


def table(home: Path, name: str) -> list[Line]:
    """All rows of one table of the ledger."""
    with closing(opened(home)) as ledger:
        return lines(ledger, name)


def opened(home: Path) -> sqlite3.Connection:
    ledger = sqlite3.connect(f"{(home / 'ledger.sqlite').absolute().as_uri()}?mode=ro", uri=True, timeout=10)
    ledger.row_factory = sqlite3.Row
    return ledger


def lines(ledger: sqlite3.Connection, name: str, order: str = "") -> list[Line]:
    return [dict(row) for row in ledger.execute(f"SELECT * FROM {name} {f'ORDER BY {order}' if order else ''}")]


def check(books: Books) -> None:
    """Everything that holds in the end, whatever happened: every engine has ended and is booked to its end."""
    check_open(books)
    check_windows(books)
    check_engines_are_metered_whole(books)
    check_devices(books)
    check_energy(books)


def check_open(books: Books) -> None:
    """What holds at any moment, while engines still run."""
    check_postings(books)
    check_meter(books)
    check_usage(books)
    check_money(books)


def check_postings(books: Books) -> None:
    """A posting is of a request or has no request; the phases of a request are the whole of it."""
    for row in books.postings:
        assert row["kind"] in KINDS
        assert (row["kind"] == "request") == bool(row["record_id"])
        assert row["gpu_ns"] >= 0
        if row["kind"] == "request":
            assert row["gpu_ns"] == row["prefill_ns"] + row["decode_ns"]
            assert min(row["prefill_ns"], row["decode_ns"], row["wasted_ns"]) >= 0


def check_meter(books: Books) -> None:
    """Of an engine and device, rows follow each other without a hole, and the kinds fill each of them."""
    for lines in by_device(books).values():
        assert all(before["end_ns"] == after["start_ns"] for before, after in pairwise(lines))
        for row in lines:
            wall_ns = row["end_ns"] - row["start_ns"]
            assert wall_ns > 0
            assert min(row[f"{kind}_ns"] for kind in KINDS) >= 0
            assert given_ns(row) <= wall_ns if row["shared"] else given_ns(row) == wall_ns


def check_window_lengths(books: Books, window_ns: int) -> None:
    """Windows between an engine's first and last are whole, and the engines of a device fill each of its windows."""
    windows: dict[tuple[str, int], list[Line]] = defaultdict(list)
    reached: dict[str, list[int]] = defaultdict(list)
    for (_, device), lines in by_device(books).items():
        assert all(row["end_ns"] - row["start_ns"] == window_ns for row in lines[1:-1])
        reached[device].append(lines[-1]["window_ns"])
        for row in lines:
            windows[device, row["window_ns"]].append(row)
    for (device, begin_ns), rows in windows.items():
        # Engines that run have not all booked the newest windows of a device that they share.
        if len(reached[device]) > 1 and any(last_ns <= begin_ns for last_ns in reached[device]):
            continue
        # Each process reads the clocks for itself: its windows begin some 100 ns before or after another one's.
        if len({row["end_ns"] for row in rows}) > 1:
            continue
        assert sum(map(given_ns, rows)) == union_ns((row["start_ns"], row["end_ns"]) for row in rows)


def check_windows(books: Books) -> None:
    """What is posted in a window, by kind, is what the meter gave in it."""
    posted: dict[Any, int] = defaultdict(int)
    metered: dict[Any, int] = defaultdict(int)
    for row in books.postings:
        posted[row["engine_id"], row["window_ns"], row["kind"]] += row["gpu_ns"]
    for row in books.meter:
        for kind in KINDS:
            metered[row["engine_id"], row["window_ns"], kind] += row[f"{kind}_ns"]
    assert {key: ns for key, ns in posted.items() if ns} == {key: ns for key, ns in metered.items() if ns}


def check_engines_are_metered_whole(books: Books) -> None:
    """Every device of every engine is metered from the engine's start to its end."""
    lines = by_device(books)
    for engine in books.engines:
        assert engine["ended_ns"] > 0
        for device in engine["devices"]:
            rows = lines.get((engine["engine_id"], device), [])
            if engine["ended_ns"] == engine["started_ns"]:
                assert rows == []
                continue
            assert rows[0]["start_ns"] == engine["started_ns"]
            assert rows[-1]["end_ns"] == engine["ended_ns"]


def check_devices(books: Books) -> None:
    """No device gives more than the wall time in which it had an engine, and none of that is missing."""
    for device in {row["device"] for row in books.meter}:
        lives = [(e["started_ns"], e["ended_ns"]) for e in books.engines if device in e["devices"]]
        assert sum(given_ns(row) for row in books.meter if row["device"] == device) == union_ns(lives), device


def check_energy(books: Books) -> None:
    """The joules on postings are the joules of the meter."""
    posted, metered = (sum(row["energy_uj"] or 0 for row in rows) for rows in (books.postings, books.meter))
    assert posted == metered


def check_usage(books: Books) -> None:
    """Each part of a request has one usage record, which is the sum of its postings, in time and in money."""
    ids = [row["record_id"] for row in books.usage]
    assert len(ids) == len(set(ids))
    posted: dict[str, list[Line]] = defaultdict(list)
    for row in books.postings:
        if row["record_id"]:
            posted[row["record_id"]].append(row)
    closed = {row["record_id"] for row in books.usage}
    for row in books.usage:
        postings = posted[row["record_id"]]
        assert [row[name] for name in TIMES] == [sum(each[name] for each in postings) for name in TIMES]
        assert 0 <= row["wasted_ns"] <= row["gpu_ns"] == row["prefill_ns"] + row["decode_ns"]
        if postings and "cost_nano" in row:
            costs = [(each["device_nano"], each["energy_nano"]) for each in postings]
            known = all(None not in pair for pair in costs)
            assert row["cost_nano"] == (sum(device + energy for device, energy in costs) if known else None)
        if row.get("cost_nano") is not None:
            assert row["cost_nano"] == row["prefill_nano"] + row["decode_nano"]
    if all(engine["ended_ns"] for engine in books.engines):
        assert posted.keys() <= closed


def check_money(books: Books) -> None:
    """By engine and rate, device money is time x rate and energy money is energy x tariff, to the nano-unit below."""
    postings: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for row in books.postings:
        postings[row["engine_id"], row.get("rate_id", "")].append(row)
    for (_, rate_id), rows in postings.items():
        if not rate_id:
            assert all(row.get("device_nano") is None and row.get("energy_nano") is None for row in rows)
            continue
        rate = books.rates[rate_id]
        due = Fraction(int(rate["device_numerator"]), int(rate["device_denominator"])) * sum(r["gpu_ns"] for r in rows)
        assert sum(row["device_nano"] for row in rows) == due.numerator // due.denominator
        if rate["includes_energy"]:
            assert all(row["energy_nano"] == 0 for row in rows)
        elif rate["energy_denominator"]:
            tariff = Fraction(int(rate["energy_numerator"]), int(rate["energy_denominator"]))
            due = tariff * sum(row["energy_uj"] or 0 for row in rows)
            assert sum(row["energy_nano"] or 0 for row in rows) == due.numerator // due.denominator


def by_device(books: Books) -> dict[tuple[str, str], list[Line]]:
    """Meter rows by engine and device, in their order."""
    lines: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for row in books.meter:
        lines[row["engine_id"], row["device"]].append(row)
    return lines


def given_ns(row: Line) -> int:
    """What a device gave an engine, of all kinds."""
    return sum(row[f"{kind}_ns"] for kind in KINDS)


def union_ns(intervals: Iterable[tuple[int, int]]) -> int:
    """Length of what intervals cover together."""
    total = reached = 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
