"""Dynamo's forward-pass metrics: split by estimate with nothing lost, and held against what the ledger attributed."""

import gzip
import json
from decimal import Decimal

import pytest
from click.testing import CliRunner
from costtrace_dynamo.passes.busy_query import busy_workers
from costtrace_dynamo.passes.forward_passes import METHOD, Pass, Served, allocate, busy
from costtrace_dynamo.passes.pass_tables import cost_nano
from costtrace_dynamo.passes.trace_files import read_passes, read_served
from hypothesis import given
from hypothesis import strategies as st
from otlp_receiver import MS, WALL, engine, record, turn, write

from costtrace.cli.app import cli
from costtrace.core.errors import CosttraceError
from costtrace.ledger.answers import Period
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.store import Ledger

WORKER = "15671851427547792706"


def a_pass(counter=1, end_ms=100, wall_ms=10, *, worker=WORKER, prefills=0, tokens=0, decodes=0):
    return Pass(worker, 0, counter, WALL + end_ms * MS, wall_ms * MS, prefills, tokens, decodes)


def served(name="r", at_ms=0, first_ms=50, end_ms=200, *, prompt=20, cached=0, prefill=WORKER, decode=WORKER):
    first = None if first_ms is None else WALL + first_ms * MS
    return Served(name, WALL + at_ms * MS, first, WALL + end_ms * MS, prompt, cached, 8, prefill, decode)


def times(found):
    return {one.served.request_id: (one.prefill_ns, one.decode_ns) for one in found.estimates}


def test_a_pass_is_split_by_the_tokens_that_each_request_computed_in_it():
    requests = [served("long", prompt=90, cached=10), served("short", prompt=20), served("answers", -90, -50)]
    found = allocate([a_pass(end_ms=20, wall_ms=11, prefills=2, tokens=100, decodes=10)], requests)
    assert times(found) == {"long": (8 * MS, 0), "short": (2 * MS, 0), "answers": (0, 1 * MS)}
    assert found.unassigned_ns == 0


def test_a_request_is_only_in_the_passes_of_its_own_workers_and_its_own_time():
    requests = [served("one", prefill="p", decode="d"), served("two", 300, 350, 400, prefill="p", decode="d")]
    passes = [
        a_pass(1, 40, 30, worker="p", prefills=1, tokens=20),
        a_pass(1, 100, 20, worker="d", decodes=1),
        a_pass(2, 340, 7, worker="p", prefills=1, tokens=20),
    ]
    found = allocate(passes, requests)
    assert times(found) == {"one": (30 * MS, 20 * MS), "two": (7 * MS, 0)}


def test_a_pass_just_outside_of_a_requests_time_is_still_its_own_and_a_far_one_is_nobodys():
    late, far = a_pass(1, 240, 10, decodes=1), a_pass(2, 900, 5, decodes=1)
    found = allocate([late, far], [served()])
    assert times(found) == {"r": (0, 10 * MS)}
    assert found.unassigned_ns == 5 * MS
    assert found.workers[0].unassigned_ns == 5 * MS


def test_a_record_without_workers_and_first_token_can_be_of_any_pass_in_its_time():
    found = allocate([a_pass(decodes=1), a_pass(2, 150, prefills=1)], [served(first_ms=None, prefill="", decode="")])
    assert times(found) == {"r": (10 * MS, 10 * MS)}


def test_a_pass_or_record_that_comes_twice_counts_once():
    found = allocate([a_pass(decodes=1)] * 2, [served()] * 2)
    assert times(found) == {"r": (0, 10 * MS)}
    assert found.workers[0].passes == 1


def test_a_number_that_is_missing_is_a_lost_pass_and_a_heartbeat_is_none():
    found = busy([a_pass(1), a_pass(2, wall_ms=0), a_pass(5)])[WORKER]
    assert (found.passes, found.lost, found.busy_ns) == (2, 2, 20 * MS)


PASSES = st.builds(
    a_pass,
    st.integers(1, 9),
    st.integers(0, 900),
    st.integers(0, 60),
    worker=st.sampled_from(["p", "d"]),
    prefills=st.integers(0, 3),
    tokens=st.integers(0, 999),
    decodes=st.integers(0, 5),
)
REQUESTS = st.builds(
    served,
    st.sampled_from("abcdef"),
    st.integers(0, 500),
    st.one_of(st.none(), st.integers(500, 600)),
    st.integers(600, 900),
    prompt=st.integers(0, 99),
    cached=st.integers(0, 99),
    prefill=st.sampled_from(["p", "d", ""]),
    decode=st.sampled_from(["p", "d", ""]),
)


@given(st.lists(PASSES, max_size=12), st.lists(REQUESTS, max_size=8))
def test_requests_and_what_is_unassigned_add_up_to_the_passes(passes, requests):
    found = allocate(passes, requests)
    once = {(one.worker, one.rank, one.counter): one.wall_ns for one in passes}
    assert sum(one.gpu_ns for one in found.estimates) + found.unassigned_ns == sum(once.values())
    assert sum(worker.busy_ns for worker in found.workers) == sum(once.values())


# -- files


def pass_line(counter=1, wall="0.010000001", *, mode="full", version=1, worker=WORKER, end_ms=100):
    scheduled = {"num_prefill_requests": 0, "sum_prefill_tokens": 0, "num_decode_requests": 1}
    fpm = {"version": version, "worker_id": worker, "dp_rank": 0, "counter_id": counter, "wall_time": "?"}
    event = {"schema": "dynamo.fpm.trace.v1", "capture_mode": mode, "observed_at_unix_ms": WALL // MS + end_ms}
    line = json.dumps({"timestamp": 1, "event": {**event, "fpm": {**fpm, "scheduled_requests": scheduled}}})
    return line.replace('"?"', wall) + "\n"


def request_line(kind="request_end", **changes):
    request = {
        "request_id": "r",
        "input_tokens": 9,
        "output_tokens": 8,
        "request_received_ms": WALL // MS,
        "ttft_ms": 20.5,
        "total_time_ms": 130.25,
        "worker": {"prefill_worker_id": int(WORKER), "decode_worker_id": int(WORKER)},
        **changes,
    }
    event = {"schema": "dynamo.request.trace.v1", "event_type": kind, "event_time_unix_ms": WALL // MS + 131}
    return json.dumps({"timestamp": 1, "event": {**event, "request": request}}) + "\n"


def put(path, *lines):
    data = "".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_times_of_a_trace_are_exact_to_the_nanosecond(tmp_path):
    (found,), damaged = read_passes([put(tmp_path / "fpm.jsonl.gz", pass_line())])
    assert (found.wall_ns, found.worker, found.ended_ns, damaged) == (10_000_001, WORKER, WALL + 100 * MS, 0)


def test_a_file_that_is_still_written_is_read_as_far_as_it_goes(tmp_path):
    path = put(tmp_path / "fpm.jsonl.gz", *(pass_line(number, f"0.0{number:05}") for number in range(1, 2_000)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    records, damaged = read_passes([path])
    assert 0 < len(records) < 2_000
    assert damaged <= 1
    torn = put(tmp_path / "torn.jsonl", pass_line(), pass_line(2)[:40])
    assert [len(read_passes([torn]).records), read_passes([torn]).damaged] == [1, 1]


@pytest.mark.parametrize("wall", ["-1", "NaN", "Infinity", '"x"', "null"])
def test_a_duration_that_is_none_is_a_damaged_line(tmp_path, wall):
    assert read_passes([put(tmp_path / "fpm.jsonl", pass_line(wall=wall))]) == ([], 1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (pass_line(mode="sampled"), "DYN_FPM_MODE=full"),
        (pass_line(version=2), "version 2"),
        (request_line(), "dynamo.request.trace.v1"),
    ],
)
def test_passes_that_cannot_be_added_up_are_refused(tmp_path, line, says):
    with pytest.raises(CosttraceError, match=says):
        read_passes([put(tmp_path / "fpm.jsonl", line)])


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CosttraceError, match=r"nothing\.jsonl"):
        read_served([tmp_path / "nothing.jsonl"])


def test_only_ends_of_requests_are_read_and_an_older_record_has_its_own_end(tmp_path):
    old = {"input_tokens": None, "ttft_ms": None, "total_time_ms": None, "worker": None}
    lines = (request_line(), request_line("tool"), request_line(request_id="old", **old))
    (new, older), _ = read_served([put(tmp_path / "requests", *lines)])
    assert (new.first_token_ns, new.ended_ns) == (WALL + 20_500_000, WALL + 130_250_000)
    assert (new.prefill_worker, new.decode_worker) == (WORKER, WORKER)
    assert (older.first_token_ns, older.ended_ns, older.decode_worker) == (None, WALL + 131 * MS, "")


# -- the command


def run(*words):
    done = CliRunner().invoke(cli, ["dynamo", *map(str, words)], standalone_mode=False)
    return done.return_value, done.stdout


def test_the_estimate_is_labelled_and_adds_up_in_time_and_in_money(tmp_path):
    passes = put(tmp_path / "fpm.jsonl.gz", pass_line(1), pass_line(2, "0.0333"), pass_line(3, "0.007", end_ms=990))
    requests = put(tmp_path / "requests", request_line(), request_line(request_id="s", ttft_ms=10))
    _, shown = run("estimate", "--passes", passes, "--requests", requests, "--per-hour", "2.50", "--format", "json")
    found = json.loads(shown)
    rows = found["estimates"]
    assert {row["method"] for row in rows} == {METHOD}
    assert [row["kind"] for row in rows] == ["request", "request", "unassigned"]
    whole_ns = 10_000_001 + 33_300_000 + 7_000_000
    assert sum(row["busy_ns"] for row in rows) == sum(row["busy_ns"] for row in found["workers"]) == whole_ns
    assert rows[-1]["busy_ns"] == 7_000_000
    assert sum(row["cost_nano"] for row in rows) == cost_nano(whole_ns, Decimal("2.50"))
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
        (found,) = busy_workers(store, Period(0, 1 << 62))
    ledger.close()
    assert (found.worker, found.request_ns, found.shared) == (WORKER, 60 * MS, False)


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
