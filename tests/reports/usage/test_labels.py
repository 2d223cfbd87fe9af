"""Reports by workload, user, label and route: they add up, and are bounded."""

import json
from contextlib import closing

import pytest
from click.testing import CliRunner
from month import END_NS, START_NS, write_month

from costtrace.cli.app import cli
from costtrace.core.errors import CosttraceError
from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.periods.close import close_period
from costtrace.ledger.periods.compact import compact_period
from costtrace.ledger.queries import ended, used
from costtrace.ledger.reader import SqliteStore
from costtrace.ledger.verify.sealed_rows import seals
from costtrace.reports.usage.folding import OTHER

MONTH = Period(START_NS, END_NS)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("labels")
    write_month(home, requests_per_window=3)
    return home


@pytest.fixture
def ledger(home):
    with closing(Ledger(home / "ledger.sqlite", read_only=True)) as ledger:
        yield ledger


def sums(rows, *fields):
    """Sums of *fields*, by the rows' first key."""
    by_key = {}
    for row in rows:
        values = by_key.setdefault(row.keys[0] if row.keys else "", [0] * len(fields))
        for place, field in enumerate(fields):
            values[place] += getattr(row, field) or 0
    return by_key


@pytest.mark.parametrize("by", ["workload", "user", "label:team.a", "route"])
def test_a_report_by_a_label_has_what_the_records_have_and_adds_up(ledger, by):
    store = SqliteStore(ledger)
    key = {"user": '"user"'}.get(by, f"coalesce(json_extract(labels, '$.\"{by.removeprefix('label:')}\"'), '')")
    tokens = f"SELECT {key}, sum(part = 1 AND attempt = 1), sum(input_tokens), sum(output_tokens) FROM usage GROUP BY 1"
    expected = {row[0]: list(row)[1:] for row in ledger.connection.execute(tokens)}
    assert sums(ended(store, MONTH, (by,)), "requests", "input_tokens", "output_tokens") == expected
    posted = f"SELECT {key}, sum(gpu_ns) FROM usage GROUP BY 1"
    requests = [row for row in used(store, MONTH, (by,)) if row.kind == "request"]
    assert sums(requests, "gpu_ns") == {row[0]: [row[1]] for row in ledger.connection.execute(posted)}
    fields = ("gpu_ns", "energy_uj", "device_nano", "energy_nano")
    whole, parts = (sums(used(store, MONTH, names), *fields) for names in ((), (by,)))
    assert [sum(column) for column in zip(*parts.values(), strict=True)] == whole[""]


def report(home, *words):
    words = ("report", *words, "--format", "json", "--home", str(home))
    done = CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
    return json.loads(done.stdout)["summary"]


def test_all_but_the_most_expensive_values_are_folded_and_nothing_is_lost(home):
    def requests(rows):
        return {row["workload"]: row["gpu_ns"] for row in rows if row["kind"] == "request"}

    whole, folded = (requests(report(home, "--by", "workload", *more)) for more in ((), ("--most", "2")))
    named = sorted((name for name in whole if name), key=whole.get, reverse=True)
    assert set(folded) == {"", *named[:2], OTHER}
    assert folded[OTHER] == sum(whole[name] for name in whole if name and name not in folded)
    assert sum(folded.values()) == sum(whole.values())


@pytest.mark.parametrize("by", ["label:", "label:x'y", "label:X", "labels", 'label:a"b'])
def test_a_name_that_cannot_be_a_label_is_refused(home, by):
    with pytest.raises(CosttraceError, match="no dimension"):
        report(home, "--by", by)


def test_a_compacted_month_keeps_its_totals_and_has_no_labels(tmp_path):
    write_month(tmp_path, requests_per_window=2)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        store = SqliteStore(ledger)
        fields = ("requests", "input_tokens")
        before = sums(ended(store, MONTH, ()), *fields)
        close_period(ledger, "2026-11", MONTH, END_NS + 1)
        compact_period(ledger, seals(store)[-1], END_NS + 2)
        assert sums(ended(store, MONTH, ("workload",)), *fields) == {"": before[""]}
