"""Workload, route and user: on the request, in reports, and never without end."""

import json
from contextlib import closing

import pytest
from click.testing import CliRunner
from costtrace_vllm.process import process
from costtrace_vllm.server_side import requests
from costtrace_vllm.server_side.routes import WORK, route_of
from month import END_NS, START_NS, write_month

from costtrace.cli.app import cli
from costtrace.config import load as config
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


# -- on the request --------------------------------------------------------------------------------------------------


@pytest.fixture
def labels(monkeypatch, tmp_path):
    """The labels that a request of these headers gets."""

    def ask(path, *headers, peer="127.0.0.1", **variables):
        for name, value in {"COSTTRACE_HOME": str(tmp_path), **variables}.items():
            monkeypatch.setenv(name, value)
        process.forget()
        caller = requests.Caller({"path": path, "headers": list(headers), "client": (peer, 5)})
        caller.resolve()
        return caller.identity.labels

    yield ask
    process.forget()


WORKLOAD = (b"x-costtrace-workload", b"search")


def test_a_request_has_its_workload_by_a_trusted_hop_and_its_route_by_the_server(labels):
    assert labels("/v1/chat/completions", WORKLOAD) == {"workload": "search", "route": "chat/completions"}
    assert labels("/v1/chat/completions", WORKLOAD, peer="203.0.113.9") == {"route": "chat/completions"}
    assert labels("/v1/embeddings") == {"route": "embeddings"}
    assert labels("", WORKLOAD) == {"workload": "search"}


def test_labels_can_be_others_or_none(labels):
    assert labels("/v1/completions", WORKLOAD, COSTTRACE_REQUEST_LABELS="none") == {}
    assert labels("/v1/completions", WORKLOAD, COSTTRACE_REQUEST_LABELS="endpoint=:path") == {"endpoint": "completions"}
    with pytest.raises(config.ConfigError, match="same header"):
        config.load(env={"COSTTRACE_REQUEST_LABELS": "a=:path,b=:path"})


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/completions", "completions"),
        ("/prefix/v1/chat/completions/", "chat/completions"),
        ("/v1/responses", "responses"),
        ("/v1/rerank", "rerank"),
        ("/v1/whatever-a-client-writes", "other"),
        ("/v1/chat/completions/../x", "other"),
        ("/", "other"),
        ("", ""),
    ],
)
def test_a_route_is_one_of_a_few_whatever_a_client_asks_for(path, route):
    assert route_of(path) == route
    assert route in {*WORK, "chat/completions", "other", ""}


# -- in reports ------------------------------------------------------------------------------------------------------


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
    """By their first key."""
    found = {}
    for row in rows:
        values = found.setdefault(row.keys[0] if row.keys else "", [0] * len(fields))
        for place, field in enumerate(fields):
            values[place] += getattr(row, field) or 0
    return found


@pytest.mark.parametrize("by", ["workload", "user", "label:team.a", "route"])
def test_a_report_by_a_label_has_what_the_records_have_and_adds_up(ledger, by):
    store = SqliteStore(ledger)
    key = {"user": '"user"'}.get(by, f"coalesce(json_extract(labels, '$.\"{by.removeprefix('label:')}\"'), '')")
    tokens = f"SELECT {key}, sum(part = 1 AND attempt = 1), sum(input_tokens), sum(output_tokens) FROM usage GROUP BY 1"
    due = {row[0]: list(row)[1:] for row in ledger.connection.execute(tokens)}
    assert sums(ended(store, MONTH, (by,)), "requests", "input_tokens", "output_tokens") == due
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


def test_beyond_the_most_dear_values_stand_together_and_nothing_is_lost(home):
    def requests(rows):
        return {row["workload"]: row["gpu_ns"] for row in rows if row["kind"] == "request"}

    whole, folded = (requests(report(home, "--by", "workload", *more)) for more in ((), ("--most", "2")))
    named = sorted((name for name in whole if name), key=whole.get, reverse=True)
    assert set(folded) == {"", *named[:2], OTHER}
    assert folded[OTHER] == sum(whole[name] for name in whole if name and name not in folded)
    assert sum(folded.values()) == sum(whole.values())


@pytest.mark.parametrize("by", ["label:", "label:x'y", "label:X", "labels", 'label:a"b'])
def test_what_cannot_be_a_label_is_refused(home, by):
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
