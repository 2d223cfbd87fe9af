"""`costtrace dynamo`: the estimate adds up, and the check compares attributed time with forward passes."""

import json
from decimal import Decimal

from click.testing import CliRunner
from costtrace_dynamo.passes.busy_query import attributed_times
from costtrace_dynamo.passes.forward_passes import METHOD
from costtrace_dynamo.passes.pass_tables import cost_nano
from dynamo_traces import WORKER, pass_line, put, request_line
from otlp_receiver import MS, engine, record, turn, write

from costtrace.cli.app import cli
from costtrace.ledger.answers import Period
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.store import Ledger


def run(*words):
    done = CliRunner().invoke(cli, ["dynamo", *map(str, words)], standalone_mode=False)
    return done.return_value, done.stdout


def test_the_estimate_is_labelled_and_adds_up_in_time_and_in_money(tmp_path):
    passes = put(tmp_path / "fpm.jsonl.gz", pass_line(1), pass_line(2, "0.0333"), pass_line(3, "0.007", end_ms=990))
    requests = put(tmp_path / "requests", request_line(), request_line(request_id="s", ttft_ms=10))
    _, shown = run("estimate", "--passes", passes, "--requests", requests, "--per-hour", "2.50", "--format", "json")
    tables = json.loads(shown)
    rows = tables["estimates"]
    assert {row["method"] for row in rows} == {METHOD}
    assert [row["kind"] for row in rows] == ["request", "request", "unassigned"]
    total_ns = 10_000_001 + 33_300_000 + 7_000_000
    assert sum(row["busy_ns"] for row in rows) == sum(row["busy_ns"] for row in tables["workers"]) == total_ns
    assert rows[-1]["busy_ns"] == 7_000_000
    assert sum(row["cost_nano"] for row in rows) == cost_nano(total_ns, Decimal("2.50"))
    _, text = run("estimate", "--passes", passes, "--requests", requests)
    assert "ESTIMATED, not measured" in text
    assert "unknown" in text, "without a price costs are not known"


def test_a_worker_with_two_ranks_is_busy_for_the_sum_of_both(tmp_path):
    """Two engines with a device each, one worker: each rank publishes its own passes."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    write(ledger, turn([record(1)]), *(engine(f"engine-{n}", settings={"dynamo_worker": WORKER}) for n in (1, 2)))
    ledger.connection.executescript("""
        CREATE TEMP TABLE other AS SELECT * FROM meter;
        UPDATE other SET engine_id = 'engine-2', device = 'GPU-bbbb';
        INSERT INTO meter SELECT * FROM other;
    """)
    with open_ledger(tmp_path) as store:
        (worker,) = attributed_times(store, Period(0, 1 << 62)).values()
    ledger.close()
    assert (worker.worker, worker.request_ns, worker.shared) == (WORKER, 60 * MS, False)


def test_the_check_shows_what_was_attributed_less_what_the_passes_took(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    records = [record(1), record(2)]  # 30 ms each
    write(ledger, turn(records), engine(settings={"dynamo_worker": WORKER}))
    ledger.close()
    passes = put(tmp_path / "fpm.jsonl", pass_line(1, "0.030"), pass_line(2, "0.020"), pass_line(1, "1", worker="w"))
    words = ("check", "--passes", passes, "--home", tmp_path)
    code, shown = run(*words, "--format", "json")
    mine, other = json.loads(shown)["workers"]
    assert code == 0
    assert (mine["attributed_ns"], mine["passes_ns"], mine["residual_ns"]) == (60 * MS, 50 * MS, 10 * MS)
    assert mine["residual_ppm"] == 200_000
    assert (other["worker"], other["attributed_ns"], other["residual_ns"]) == ("w", None, None)
    assert run(*words, "--at-most", "25")[0] == 1, "of one worker nothing was attributed"
    put(passes, pass_line(1, "0.030"), pass_line(2, "0.020"))
    assert [run(*words, "--at-most", limit)[0] for limit in ("19", "20")] == [1, 0]
    assert "+20.00 %" in run(*words)[1]
