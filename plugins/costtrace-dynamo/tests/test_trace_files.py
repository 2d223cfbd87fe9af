"""Dynamo's traces, read as far as they can be."""

import pytest
from costtrace_dynamo.passes.trace_files import read_passes, read_served
from dynamo_traces import WORKER, pass_line, put, request_line
from otlp_receiver import MS, WALL

from costtrace.core.errors import CosttraceError


def test_times_of_a_trace_are_exact_to_the_nanosecond(tmp_path):
    (only,), damaged = read_passes([put(tmp_path / "fpm.jsonl.gz", pass_line())])
    assert (only.wall_ns, only.worker, only.ended_ns, damaged) == (10_000_001, WORKER, WALL + 100 * MS, 0)


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


@pytest.mark.parametrize("end", ["Infinity", "NaN", "null", '"x"'])
def test_a_pass_that_ended_at_no_time_is_a_damaged_line(tmp_path, end):
    line = pass_line(7).replace(str(WALL // MS + 100), end)
    (only,), damaged = read_passes([put(tmp_path / "fpm.jsonl", line, pass_line(8))])
    assert (only.counter, damaged) == (8, 1)


@pytest.mark.parametrize(
    "changes", [{"worker": "x"}, {"worker": [7]}, {"replay": "x"}, {"request_received_ms": float("inf")}], ids=str
)
def test_a_request_with_a_field_of_another_kind_is_a_damaged_line(tmp_path, changes):
    (only,), damaged = read_served([put(tmp_path / "requests", request_line(**changes), request_line(request_id="s"))])
    assert (only.request_id, damaged) == ("s", 1)


@pytest.mark.parametrize("wall", ["1e300000", "1e10", "true", "[" * 20_000])
def test_a_number_that_cannot_be_is_a_damaged_line(tmp_path, wall):
    (only,), damaged = read_passes([put(tmp_path / "fpm.jsonl", pass_line(wall=wall), pass_line(8))])
    assert (only.counter, damaged) == (8, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_tokens": -1},
        {"input_tokens": 10**30},
        {"output_tokens": True},
        {"cached_tokens": -5},
        {"request_received_ms": 10**20},
        {"total_time_ms": 10**20},
    ],
    ids=str,
)
def test_a_request_of_impossible_size_is_a_damaged_line(tmp_path, changes):
    (only,), damaged = read_served([put(tmp_path / "requests", request_line(**changes), request_line(request_id="s"))])
    assert (only.request_id, damaged) == ("s", 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (pass_line(mode="sampled"), "DYN_FPM_MODE=full"),
        (pass_line(version=2), "version 2"),
        (request_line(), "dynamo.request.trace.v1"),
    ],
)
def test_passes_that_cannot_be_added_up_are_refused(tmp_path, line, message):
    with pytest.raises(CosttraceError, match=message):
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
