"""`costtrace bench` joins the generator's requests to the ledger by their ids; here the generator is a stand-in."""

import json
import sys
import textwrap
from decimal import Decimal

import pytest
from click.testing import CliRunner
from costtrace_board.figures import Figure, Provenance
from costtrace_board.load_generators import aiperf_ids
from costtrace_board.pareto import OperatingPoint, front, inferencex_row
from costtrace_board.query import billed
from hypothesis import given
from hypothesis import strategies as st

from costtrace.cli.app import cli
from costtrace.core.errors import CosttraceError
from costtrace.ledger import Ledger

STAND_IN = """
    #!{python}
    import json, sys, time
    from pathlib import Path
    from costtrace.ledger.store import Ledger, UsageCost
    from costtrace.core.rows import EngineRow, UsageRecord
    words = dict(zip(sys.argv, sys.argv[1:]))
    users, count = int(words["--max-concurrency"]), int(words["--num-prompts"])
    ledger = Ledger(Path({home!r}) / "ledger.sqlite")
    now = time.time_ns()
    with ledger.transaction():
        ledger.put_engine(EngineRow(engine_id="e", host="h", engine="vllm", version="1", model="m", role="aggregated",
            dp_rank=0, devices=("G0", "G1"), device_name="B200", device_kind="gpu", started_wall_ns=1, started_ns=1))
        ledger.put_usage([(UsageRecord(record_id=f"{{words['--request-id-prefix']}}{{k}}", request_key=str(k),
            request_id=f"cmpl-{{words['--request-id-prefix']}}{{k}}-0", engine_id="e", tenant="t",
            tenant_source="default", model="m", operation="text_completion",
            arrived_ns=now, scheduled_ns=now, decode_ns_at=now, ended_ns=now,
            gpu_ns=10**9, prefill_ns=10**8, decode_ns=9 * 10**8, wasted_ns=0, input_tokens=10, cached_tokens=0,
            output_tokens=20, computed_tokens=30, sequences=1, steps=20, batch_milli=1000 * users, method="affine"),
            UsageCost(2_000_000, 200_000, 1_800_000, "USD", "book")) for k in range(count - {missing})])
    ledger.close()
    Path(words["--result-dir"], words["--result-filename"]).write_text(json.dumps({{"model_id": "m", "completed": count,
        "failed": 0, "max_concurrency": users, "output_throughput": 40.0 * users,
        "total_token_throughput": 60.0 * users, "total_input_tokens": 10 * count,
        "median_tpot_ms": 5.0 * users, "p99_ttft_ms": 80.0, "date": "now"}}))
"""


def stand_in(folder, missing=0):
    home, command = folder / "home", folder / "vllm"
    home.mkdir()
    Ledger(home / "ledger.sqlite").close()
    text = textwrap.dedent(STAND_IN.format(python=sys.executable, home=str(home), missing=missing)).lstrip()
    command.write_text(text)
    command.chmod(0o755)
    return home, command


def bench(folder, home, command, *words):
    done = CliRunner().invoke(
        cli,
        ["bench", "--model", "m", "--vllm", str(command), "--home", str(home), "--out", str(folder / "out"), *words],
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_a_points_cost_is_the_ledgers_beside_what_throughput_alone_would_say(tmp_path):
    home, command = stand_in(tmp_path)
    done = bench(tmp_path, home, command, "--concurrency", "4,1", "--requests", "3", "--format", "json")
    points = json.loads(done.stdout)["operating_points"]
    assert [(p["concurrency"], p["requests"], p["gpus"]) for p in points] == [(1, 3, 2), (4, 12, 2)]
    for point in points:
        # 0.002 USD for 20 output tokens
        assert Decimal(point["cost_per_million_tokens"]) == 100
        # 0.002 USD a device-second is 7.2 an hour; 20 x users tokens/s/GPU
        users = point["concurrency"]
        assert Decimal(point["assumed_cost_per_million_tokens"]) == Decimal(7_200_000) / (20 * users * 3_600)
    row = json.loads((tmp_path / "out" / "agg_costtrace_c4.json").read_text())
    assert (row["conc"], row["tput_per_gpu"], row["output_tput_per_gpu"], row["hw"]) == (4, 120, 80, "B200")
    assert (row["median_tpot"], row["median_intvty"], row["p99_ttft"]) == (0.02, 50, 0.08)
    assert row["costtrace"]["cost_nano"] == 24_000_000


class Rows:
    """A ledger with one request on each of two engines: in these currencies, on these devices."""

    def __init__(self, currencies, devices):
        self.pairs = list(zip(currencies, devices, strict=True))

    def rows(self, sql, parameters):
        for currency, device in self.pairs:
            yield ("a", 1, 10, 5, currency, None, 0, 1, 2, 1000, device, json.dumps([device]), "vllm", 0)


def test_costs_in_two_currencies_are_not_added_up():
    assert billed(Rows(["USD", "USD"], ["B200", "B200"]), bool, 0).cost_nano == 10
    both = billed(Rows(["USD", "EUR"], ["B200", "B200"]), bool, 0)
    assert (both.cost_nano, both.currency) == (None, "EUR, USD")


def test_engines_on_two_kinds_of_gpu_have_no_single_kind_in_the_row():
    both = billed(Rows(["USD", "USD"], ["H100", "B200"]), bool, 0)
    assert (both.device_name, both.gpus) == ("B200 + H100", 2)
    figure = Figure(Provenance("vllm-bench", "f", "1"), "m", both.device_name, 2, Decimal(3), Decimal(1), Decimal(2))
    assert inferencex_row(OperatingPoint(figure, both), {}, 1, 2)["hw"] == ""


def test_its_files_are_for_their_owner_only_also_where_they_were_there_for_all(tmp_path):
    home, command = stand_in(tmp_path)
    row, page = tmp_path / "out" / "agg_costtrace_c1.json", tmp_path / "out" / "pareto.html"
    row.parent.mkdir()
    row.touch(mode=0o644)
    bench(tmp_path, home, command, "--concurrency", "1", "--requests", "3")
    assert [file.stat().st_mode & 0o777 for file in (row, page)] == [0o600, 0o600]


def test_its_rows_and_others_lie_in_one_chart(tmp_path):
    home, command = stand_in(tmp_path)
    other = tmp_path / "agg_other.json"
    other.write_text(json.dumps({"hw": "h200", "tput_per_gpu": 100, "output_tput_per_gpu": 50, "tp": 8, "conc": 9, "median_tpot": 0.01}))  # fmt: skip  # noqa: E501 - one row
    bench(tmp_path, home, command, "--concurrency", "1,4", "--compare", str(other), "--tier", "hyperscaler")
    page = (tmp_path / "out" / "pareto.html").read_text()
    assert page.count('<svg class="chart"') == 2
    assert "measured here" in page
    assert "H200, hyperscaler" in page


def test_a_run_with_failures_is_refused_before_its_bill_is_waited_for(tmp_path):
    home, command = stand_in(tmp_path, missing=1)
    command.write_text(command.read_text().replace('"failed": 0', '"failed": 1'))
    with pytest.raises(CosttraceError, match=r"1 of 4 \(25.0%\) requests failed"):
        bench(tmp_path, home, command, "--concurrency", "1", "--requests", "3", "--wait", "60")


def test_requests_that_are_not_in_the_ledger_are_no_point(tmp_path):
    home, command = stand_in(tmp_path, missing=1)
    with pytest.raises(CosttraceError, match="9 of 10 requests are in the ledger"):
        bench(tmp_path, home, command, "--concurrency", "1", "--wait", "1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--concurrency", "many"), "write numbers"),
        (("--concurrency", "0"), "write numbers"),
        (("--vllm", "no-such-command"), "there is no command"),
    ],
)
def test_a_bench_that_cannot_run_says_why(tmp_path, words, message):
    home, command = stand_in(tmp_path)
    with pytest.raises(CosttraceError, match=message):
        bench(tmp_path, home, command, *words)


def test_a_generator_that_fails_is_quoted(tmp_path):
    home, command = stand_in(tmp_path)
    command.write_text("#!/bin/sh\necho no server there >&2\nexit 3\n")
    with pytest.raises(CosttraceError, match="status 3:\nno server there"):
        bench(tmp_path, home, command, "--concurrency", "1")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_nothing_beats_a_point_of_the_front_and_something_beats_every_other(points):
    best = front(points)
    assert best
    for index, (good, bad) in enumerate(points):
        beaten = [p for p in points if p != (good, bad) and p[0] >= good and p[1] <= bad]
        assert (index in best) == (not beaten)


AIPERF = """
    #!{python}
    import json, sys, time, uuid
    from pathlib import Path
    from costtrace.ledger.store import Ledger, UsageCost
    from costtrace.core.rows import EngineRow, UsageRecord
    words = dict(zip(sys.argv, sys.argv[1:]))
    users, count = int(words["--concurrency"]), int(words["--request-count"])
    ids = [str(uuid.UUID(int=1000 * users + k)) for k in range(count + 2)]
    ledger = Ledger(Path({home!r}) / "ledger.sqlite")
    now = time.time_ns()
    with ledger.transaction():
        ledger.put_engine(EngineRow(engine_id="e", host="h", engine="tensorrt-llm", version="1", model="m",
            role="aggregated", dp_rank=0, devices=("G0", "G1"), device_name="B200", device_kind="gpu",
            started_wall_ns=1, started_ns=1))
        ledger.put_usage([(UsageRecord(record_id=one, request_key=one, request_id=f"cmpl-{{one}}-0", engine_id="e",
            tenant="t", tenant_source="default", model="m", operation="text_completion", arrived_ns=now,
            scheduled_ns=now, decode_ns_at=now, ended_ns=now, gpu_ns=10**9, prefill_ns=10**8, decode_ns=9 * 10**8,
            wasted_ns=0, input_tokens=10, cached_tokens=0, output_tokens=20, computed_tokens=30, sequences=1, steps=20,
            batch_milli=1000 * users, method="affine"), UsageCost(2_000_000, 200_000, 1_800_000, "USD", "book"))
            for one in ids])
    ledger.close()
    folder = Path(words["--output-artifact-dir"])
    folder.mkdir()
    phases = ["profiling"] * count + ["warmup"]  # and the last one is not of this run
    (folder / "profile_export.jsonl").write_text("".join(
        json.dumps({{"metadata": {{"x_request_id": one, "benchmark_phase": phase}}}}) + "\\n"
        for one, phase in zip(ids, phases)))
    (folder / "profile_export_aiperf.json").write_text(json.dumps({{"aiperf_version": "0.13.0",
        "input_config": {{"models": {{"items": [{{"name": "m"}}]}}, "phases": [{{"concurrency": users}}]}},
        "output_token_throughput": {{"avg": 40.0 * users}}, "total_token_throughput": {{"avg": 60.0 * users}},
        "output_token_throughput_per_user": {{"avg": 200.0 / users}},
        "inter_token_latency": {{"avg": 5.5, "p50": 5.0 * users}}, "time_to_first_token": {{"p99": 80.0}}}}))
"""


def aiperf(folder):
    home, command = folder / "home", folder / "aiperf"
    home.mkdir()
    Ledger(home / "ledger.sqlite").close()
    command.write_text(textwrap.dedent(AIPERF.format(python=sys.executable, home=str(home))).lstrip())
    command.chmod(0o755)
    return home, command


def bench_aiperf(folder, home, command, *words):
    return bench(folder, home, "no-vllm", "--generator", "aiperf", "--aiperf", str(command), *words)


def test_aiperfs_requests_are_joined_by_the_ids_that_it_wrote_down_and_no_others(tmp_path):
    home, command = aiperf(tmp_path)
    words = ("--concurrency", "1,4", "--requests", "3", "--format", "json")
    points = json.loads(bench_aiperf(tmp_path, home, command, *words).stdout)["operating_points"]
    assert [(p["concurrency"], p["requests"], p["gpu_ns"]) for p in points] == [(1, 3, 3 * 10**9), (4, 12, 12 * 10**9)]
    assert all(Decimal(point["cost_per_million_tokens"]) == 100 for point in points)
    row = json.loads((tmp_path / "out" / "agg_costtrace_c4.json").read_text())
    assert (row["framework"], row["tput_per_gpu"], row["output_tput_per_gpu"]) == ("tensorrt-llm", 120, 80)
    assert (row["median_tpot"], row["median_intvty"], row["p99_ttft"]) == (0.02, 50, 0.08)


def test_a_folder_with_results_of_aiperf_is_not_mixed_with_new_ones(tmp_path):
    home, command = aiperf(tmp_path)
    bench_aiperf(tmp_path, home, command, "--concurrency", "1", "--requests", "1")
    with pytest.raises(CosttraceError, match="is there already"):
        bench_aiperf(tmp_path, home, command, "--concurrency", "1", "--requests", "1")


def test_an_aiperf_that_is_not_there_says_how_to_get_it(tmp_path):
    home, _ = aiperf(tmp_path)
    with pytest.raises(CosttraceError, match="pip install aiperf, in an environment of its own"):
        bench_aiperf(tmp_path, home, "no-such-aiperf")


def test_a_request_of_aiperf_that_failed_is_not_waited_for():
    failed = '{"metadata": {"x_request_id": "b"}, "error": {"code": 500}}\n'
    served = '{"metadata": {"x_request_id": "a"}, "error": null}\n'
    assert aiperf_ids(served + failed) == {"a"}


@pytest.mark.parametrize(
    "line",
    [
        *("", "[]", "{}", "not json", '{"metadata": {}}', '{"metadata": 5}', "[" * 20_000),
        *('{"metadata": {"x_request_id": null}}', '{"metadata": {"x_request_id": ""}}'),
    ],
)
def test_a_line_of_aiperf_that_is_no_request_is_named(line):
    with pytest.raises(CosttraceError, match="line 2 of AIPerf's"):
        aiperf_ids('{"metadata": {"x_request_id": "a"}}\n' + line + "\n")
