"""Benchmarks become cost per million tokens with source, token basis and tier, or are refused with a reason."""

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner
from costtrace_board import csv_files, load_tests, mlperf
from costtrace_board.figures import (
    FigureRefused,
    Tier,
    TierPrice,
    cost_per_million,
    price,
    price_all,
    rounded,
    same_basis,
    significant,
)
from costtrace_board.load_tests import ServerHardware
from costtrace_board.published import TIERS
from costtrace_board.record_fields import load_json
from public_data import DATA

from costtrace.cli.app import cli
from costtrace.core.errors import CosttraceError

MLPERF = DATA / "mlperf" / "mlperf_inference_v5.1_summary_results.json"
H200X8 = ServerHardware("NVIDIA H200", 8)
MINE = Tier("mine", "USD", (TierPrice("*", Decimal("3.60")),))


@pytest.fixture(scope="module")
def rows():
    if not MLPERF.exists():
        pytest.skip(f"{MLPERF.name} is not beside the checkout")
    return load_json(MLPERF.read_text(), MLPERF.name)


def row(**fields):
    base = {
        "Suite": "datacenter", "Submitter": "S", "Availability": "available", "Category": "closed", "version": "v5.1",
        "System": "rack", "Model": "deepseek-r1", "Scenario": "Offline", "Accelerator": "NVIDIA GB200", "a#": 4,
        "Nodes": 18, "Performance_Result": Decimal("7200.5"), "Performance_Units": "Tokens/s",
    }  # fmt: skip
    return {**base, **fields}


def refused(imported):
    assert not imported.figures
    return imported.refusals[0].reason


# -- MLPerf


def test_every_datacenter_llm_row_of_mlperf_is_a_figure_or_refused_with_a_reason(rows):
    imported = mlperf.read(rows, MLPERF.name)
    of_interest = [
        row
        for row in rows
        if row["Suite"] == "datacenter" and row["Model"].split("-")[0] in {"deepseek", "llama2", "llama3.1", "mixtral"}
    ]
    assert len(of_interest) == 412
    assert len(imported.figures) + len(imported.refusals) == 412
    assert imported.skipped == len(rows) - 412
    assert all(figure.bases == ("output",) for figure in imported.figures)
    priced, refusals = price_all(imported, TIERS["hyperscaler"], "output")
    assert (len(priced), len(refusals)) == (348, 64)
    assert all(one.reason for one in refusals)


BY_HAND = [
    # 72 x 2.21 / (289,712 x 3,600) x 1,000,000 = 159.12 / 1,042.9632; 18 nodes with 4 each
    ("NVIDIA", "NVIDIA GB200", 18, "deepseek-r1", "Offline", "hyperscaler", 72, "289712.0", "0.15257"),
    # 8 x 2.34 / (18,592.2 x 3,600) x 1,000,000 = 18.72 / 66.93192
    ("NVIDIA", "NVIDIA B200-SXM-180GB", 1, "deepseek-r1", "Server", "neocloud", 8, "18592.2", "0.27969"),
    # 8 x 1.60 / (8,904.83 x 3,600) x 1,000,000 = 12.80 / 32.057388
    ("HPE", "NVIDIA H200-SXM-141GB", 1, "deepseek-r1", "Offline", "rental_3y", 8, "8904.83", "0.39928"),
    # 32 x 1.30 / (122,274 x 3,600) x 1,000,000 = 41.60 / 440.1864; 4 nodes with 8 each
    ("Cisco", "NVIDIA H100-SXM-80GB", 4, "llama2-70b-99", "Server", "hyperscaler", 32, "122274.0", "0.09451"),
    # 72 x 2.652 / (420,659 x 3,600) x 1,000,000 = 190.944 / 1,514.3724
    ("NVIDIA", "NVIDIA GB300", 18, "deepseek-r1", "Offline", "hyperscaler", 72, "420659.0", "0.12609"),
]


@pytest.mark.parametrize(
    ("submitter", "accelerator", "nodes", "model", "scenario", "tier", "gpus", "tokens_per_s", "by_hand"), BY_HAND
)
def test_five_rows_of_mlperf_are_what_they_are_by_hand(
    rows, submitter, accelerator, nodes, model, scenario, tier, gpus, tokens_per_s, by_hand
):
    wanted = {
        "Submitter": submitter, "Accelerator": accelerator, "Nodes": nodes, "Model": model, "Scenario": scenario,
        "Suite": "datacenter", "Category": "closed",
    }  # fmt: skip
    if submitter == "HPE":
        wanted["Category"] = "open"
    (wanted_row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    (figure,) = mlperf.read([wanted_row], "x").figures
    assert (figure.gpus, figure.output) == (gpus, Decimal(tokens_per_s))
    assert rounded(price(figure, TIERS[tier], "output").per_million, 5) == Decimal(by_hand)
    assert f"MLPerf Inference v5.1, {submitter}," in figure.provenance.source
    assert "not an MLPerf metric" in figure.provenance.terms


def test_accelerators_of_mlperf_are_counted_per_node():
    (figure,) = mlperf.read([row()], "x").figures
    assert figure.gpus == 72
    assert figure.per_gpu("output") == Fraction("7200.5") / 72


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"Performance_Units": "Queries/s"}, "not in tokens/s"),
        ({"Accelerator": "", "a#": ""}, "no accelerator"),
        ({"Accelerator": "A (x32), B (x16)"}, "different accelerators"),
        ({"System": "(72x GB200, TensorRT)", "Nodes": 1}, "per-node count may have been taken for a total"),
        ({"total_accelerators": 4}, "per-node count may have been taken for a total"),
        ({"Performance_Result": 0}, "above 0"),
        ({"Performance_Result": "fast"}, "not a number"),
    ],
)
def test_a_row_of_mlperf_that_cannot_be_a_figure_says_why(fields, reason):
    assert reason in refused(mlperf.read([row(**fields)], "x"))


def test_the_summary_of_version_6_is_read_too():
    six = {
        "0": {
            "Organization": "AMD", "Availability": "available", "Division": "closed", "SystemType": "datacenter",
            "SystemName": "smci355", "Model": "gpt-oss-120b", "Scenario": "Server", "Result": Decimal("113241.0"),
            "Units": "Tokens/s", "number_of_nodes": 1, "accelerators_per_node": 8, "total_accelerators": 8,
            "accelerator_model_name": "AMD Instinct MI355X 288GB HBM3e", "framework": "PyTorch", "version": "v6.1",
        },
        "1": {"SystemType": "datacenter", "Model": "dlrm-v3", "Scenario": "Offline"},
    }  # fmt: skip
    imported = load_tests.read(six, "summary.json", ServerHardware())
    (figure,) = imported.figures
    assert imported.skipped == 1
    assert rounded(price(figure, TIERS["hyperscaler"], "output").per_million, 3) == Decimal("0.029")


# -- load generators, by their shape


def vllm(**more):
    base = {
        "date": "20261125", "backend": "openai-chat", "model_id": "m", "max_concurrency": 8, "failed": 0,
        "total_input_tokens": 100, "output_throughput": Decimal(800), "total_token_throughput": Decimal(2400),
        "median_tpot_ms": Decimal("12.5"),
    }  # fmt: skip
    return {**base, **more}


AIPERF = {
    "aiperf_version": "0.13.0",
    "output_token_throughput": {"unit": "tokens/sec", "avg": Decimal(800)},
    "total_token_throughput": {"unit": "tokens/sec", "avg": Decimal(2400)},
    "output_token_throughput_per_user": {"avg": Decimal(80)},
    "input_config": {"endpoint": {"model_names": ["m"]}, "loadgen": {"concurrency": 8}},
}
AIPERF_OLDER = AIPERF
AIPERF = AIPERF_OLDER | {
    "error_request_count": {"avg": Decimal(0)},
    "was_cancelled": False,
    "input_config": {"models": {"items": [{"name": "m"}]}, "phases": [{"concurrency": 8}]},
}
GUIDELLM = {
    "benchmarks": [
        {
            "config": {"backend": {"model": "m"}},
            "metrics": {
                "output_tokens_per_second": {"successful": {"mean": Decimal(800)}},
                "tokens_per_second": {"successful": {"mean": Decimal(2400)}},
                "prompt_tokens_per_second": {"successful": {"mean": Decimal(1600)}},
                "inter_token_latency_ms": {"successful": {"mean": Decimal("12.5")}},
            },
        }
    ]
}


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (vllm(), "vllm-bench"),
        (AIPERF, "aiperf"),
        (AIPERF_OLDER, "aiperf"),
        (GUIDELLM, "guidellm"),
        ([vllm()], "vllm-bench"),
    ],
)
def test_a_load_generators_file_is_known_by_its_shape(data, form):
    (figure,) = load_tests.read(data, "x.json", H200X8).figures
    assert figure.provenance.format == form
    assert (figure.model, figure.gpus, figure.interactivity) == ("m", 8, 80)
    assert (figure.total, figure.input, figure.output) == (2400, 1600, 800)
    # 3.60 per hour / (800 / 8 x 3,600) x 1,000,000 = 10
    assert price(figure, MINE, "output").per_million == 10
    assert price(figure, MINE, "total").per_million == Fraction(10, 3)


def test_a_load_generator_that_does_not_know_the_gpus_asks_for_them():
    assert "--gpus" in refused(load_tests.read(vllm(), "x", ServerHardware()))


def test_a_run_with_failed_requests_or_that_was_cancelled_is_no_figure():
    assert "failed" in refused(load_tests.read(vllm(failed=3), "x", H200X8))
    assert "failed" in refused(load_tests.read(AIPERF | {"error_request_count": {"avg": 2}}, "x", H200X8))
    assert "cancelled" in refused(load_tests.read(AIPERF | {"was_cancelled": True}, "x", H200X8))


def test_a_disaggregated_inferencex_run_carries_all_its_gpus_in_every_cost():
    data = {
        "hw": "gb200", "model": "dsr1", "tput_per_gpu": Decimal(100), "output_tput_per_gpu": Decimal(80),
        "input_tput_per_gpu": Decimal(300), "disagg": True, "num_prefill_gpu": 4, "num_decode_gpu": 12, "conc": 64,
        "median_tpot": Decimal("0.02"), "isl": 1024, "osl": 1024,
    }  # fmt: skip
    (figure,) = load_tests.read(data, "agg.json", ServerHardware()).figures
    assert (figure.gpus, figure.total, figure.output, figure.input) == (16, 1600, 960, 1200)
    assert figure.per_gpu("output") == 60  # not the 80 per decode GPU
    assert figure.interactivity == 50
    assert price(figure, TIERS["hyperscaler"], "output").price.per_gpu_hour == Decimal("2.21")


def guidellm(totals=None, **row):
    base = GUIDELLM["benchmarks"][0]
    metrics = base["metrics"] | ({} if totals is None else {"request_totals": totals})
    return {"benchmarks": [base | {"metrics": metrics} | row]}


TOTALS = {"successful": 20, "errored": 980, "incomplete": 0, "total": 1000}


@pytest.mark.parametrize(
    ("data", "share"),
    [
        ({k: v for k, v in vllm(completed=12, num_prompts=1000).items() if k != "failed"}, "988 of 1,000 (98.8%)"),
        (vllm(failed=None, completed=12, num_prompts=1000), "988 of 1,000 (98.8%)"),
        (vllm(failed=988, completed=12), "988 of 1,000 (98.8%)"),
        (guidellm(TOTALS), "980 of 1,000 (98.0%)"),
        (guidellm(request_totals=TOTALS), "980 of 1,000 (98.0%)"),
        (guidellm(scheduler_metrics={"requests_made": TOTALS}), "980 of 1,000 (98.0%)"),
        (guidellm(run_stats={"requests_made": TOTALS}), "980 of 1,000 (98.0%)"),
        (guidellm(requests={"successful": [1], "errored": [1, 2, 3]}), "3 of 4 (75.0%)"),
        (AIPERF | {"error_request_count": {"avg": 980}, "request_count": {"avg": 20}}, "980 of 1,000 (98.0%)"),
        (
            AIPERF_OLDER | {"error_summary": [{"count": 900}, {"count": 80}], "request_count": {"avg": 20}},
            "980 of 1,000 (98.0%)",
        ),
    ],
)
def test_a_run_of_which_most_failed_is_refused_with_the_share(data, share):
    assert f"{share} requests failed" in refused(load_tests.read(data, "x.json", H200X8))


@pytest.mark.parametrize(
    "data",
    [
        guidellm({"successful": 970, "errored": 0, "incomplete": 30, "total": 1000}),
        guidellm(requests={"successful": [1], "errored": [], "incomplete": [2]}),
        vllm(failed=0, completed=90, num_prompts=100),
        AIPERF | {"error_summary": []},
    ],
)
def test_requests_that_the_end_of_the_run_cut_off_are_no_failures(data):
    (figure,) = load_tests.read(data, "x.json", H200X8).figures
    assert figure.output == 800


def inferencex(**more):
    base = {
        "hw": "b200", "model": "dsr1", "framework": "sglang", "tput_per_gpu": Decimal(500), "disagg": False,
        "output_tput_per_gpu": Decimal(100), "input_tput_per_gpu": Decimal(400), "tp": 8, "isl": 1024, "osl": 1024,
    }  # fmt: skip
    return {**base, **more}


def the_figure(data):
    imported = load_tests.read(data, "agg.json", ServerHardware())
    assert imported.refusals == ()
    return imported.figures[0]


@pytest.mark.parametrize("valid", [1, True, "1", "true"])
def test_measured_power_counts_whether_its_flag_is_true_or_1(tmp_path, valid):
    row = inferencex(avg_total_gpu_power_w=4000, power_valid=valid)
    assert the_figure(row).watts == 4000
    (tmp_path / "agg.json").write_text(json.dumps(row, default=float))
    done = run(tmp_path / "agg.json", "--tier", "hyperscaler", "--basis", "total", "--format", "json")
    assert Decimal(json.loads(done.output)["figures"][0]["joules_per_token"]) == 1


@pytest.mark.parametrize("valid", [0, False, "0", "false", None])
def test_power_that_its_writer_calls_invalid_is_unknown(valid):
    assert the_figure(inferencex(avg_total_gpu_power_w=4000, power_valid=valid)).watts is None


def test_power_per_gpu_is_that_of_all_gpus_and_needs_their_number():
    assert the_figure(inferencex(avg_power_w=500, power_valid=1)).watts == 4000
    without = inferencex(avg_total_gpu_power_w=4000, power_valid=1, tp=None)
    assert the_figure(without).watts is None  # of how many GPUs?


@pytest.mark.parametrize("more", [{"disagg": False}, {"disagg": False, "is_multinode": True}, {"disagg": True}])
def test_an_aggregated_multinode_run_counts_its_gpus_once(more):
    figure = the_figure(inferencex(num_prefill_gpu=16, num_decode_gpu=0, **more))
    assert (figure.gpus, figure.total, figure.output, figure.input) == (16, 8000, 1600, 6400)


def test_stages_on_one_node_that_share_their_gpus_are_counted_once():
    assert the_figure(inferencex(num_prefill_gpu=8, num_decode_gpu=8)).gpus == 8
    assert the_figure(inferencex(num_prefill_gpu=8, num_decode_gpu=8, is_multinode=1)).gpus == 16
    assert the_figure(inferencex(num_prefill_gpu=4, num_decode_gpu=12, disagg=1)).gpus == 16


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"num_prefill_gpu": 4, "num_decode_gpu": 12}, "4 prefill and 12 decode GPUs"),
        ({"disagg": True, "num_prefill_gpu": 4}, "its GPUs are unknown"),
        ({"num_gpus": 4, "num_prefill_gpu": 8, "num_decode_gpu": 0}, "num_gpus is 4"),
        ({"disagg": "perhaps"}, "disagg is 'perhaps'"),
    ],
)
def test_a_run_whose_gpus_are_not_clear_is_refused(more, reason):
    assert reason in refused(load_tests.read(inferencex(**more), "agg.json", ServerHardware()))


STAGES = {
    "hw": "b200-h100", "prefill_hw": "b200", "decode_hw": "h100", "num_prefill_gpu": 32, "num_decode_gpu": 32,
    "disagg": True, "tput_per_gpu": Decimal(1000),
}  # fmt: skip


def test_stages_on_different_hardware_have_each_its_own_price(tmp_path):
    figure = the_figure(inferencex(**STAGES))
    priced = price(figure, TIERS["hyperscaler"], "total")
    assert (figure.hardware, figure.gpus) == ("B200 + H100", 64)
    assert priced.per_gpu_hour == Fraction("1.625")  # (32 x 1.95 + 32 x 1.30) / 64
    assert rounded(priced.per_million, 6) == Decimal("0.451389")
    (tmp_path / "agg.json").write_text(json.dumps(inferencex(**STAGES), default=float))
    done = run(tmp_path / "agg.json", "--tier", "hyperscaler", "--basis", "total", "--format", "json")
    (shown,) = json.loads(done.output)["figures"]
    assert (shown["per_gpu_hour"], shown["price_source"][:11]) == ("1.625000000", "32 x B200 a")


def test_the_mean_price_of_two_stages_is_exact():
    row = inferencex(**STAGES | {"num_prefill_gpu": 1, "num_decode_gpu": 2})
    assert price(the_figure(row), TIERS["hyperscaler"], "total").per_gpu_hour == Fraction("4.55") / 3


def test_stages_of_which_one_has_no_price_are_refused():
    priced, refusals = price_all(
        load_tests.read(inferencex(**STAGES | {"decode_hw": "x9"}), "agg.json", ServerHardware()),
        TIERS["hyperscaler"],
        "total",
    )
    assert priced == []
    assert "no price for 'X9'" in refusals[0].reason
    alone = {name: value for name, value in STAGES.items() if name != "decode_hw"}
    assert "decode_hw" in refused(load_tests.read(inferencex(**alone), "agg.json", ServerHardware()))


AGENTIC = {
    "hw": "h200", "model": "dsr1", "framework": "vllm", "tp": 8, "conc": 4, "scenario_type": "agentic-coding",
    "disagg": False, "is_multinode": False,
    "request_metrics": {
        "throughput": {
            "total": {"tokens_per_second": Decimal(8000)},
            "input": {"tokens_per_second": Decimal(6000)},
            "output": {"tokens_per_second": Decimal(2000)},
            "per_gpu": {"total_tput_tps": 1000, "input_tput_tps": 750, "output_tput_tps": 250},
        },
        "latency": {"intvty": {"p50": Decimal(40)}},
    },
}  # fmt: skip


def agentic(**metrics):
    return AGENTIC | {"request_metrics": AGENTIC["request_metrics"] | metrics}


PER_GPU = {"per_gpu": AGENTIC["request_metrics"]["throughput"]["per_gpu"]}


@pytest.mark.parametrize("row", [AGENTIC, agentic(throughput=PER_GPU, latency={"tpot": {"p50": Decimal("0.025")}})])
def test_an_agentic_result_is_known_by_its_nested_metrics(row):
    figure = the_figure(row)
    assert (figure.gpus, figure.total, figure.input, figure.output) == (8, 8000, 6000, 2000)
    assert (figure.interactivity, figure.scenario, figure.hardware) == (40, "agentic-coding", "H200")


def test_an_agentic_result_with_failures_is_refused_with_the_share():
    accounting = {"records_total": 1030, "records_profiled": 20, "records_error_dropped": 980}
    row = AGENTIC | {"request_accounting": accounting}
    assert "980 of 1,000 (98.0%)" in refused(load_tests.read(row, "agg.json", ServerHardware()))
    the_figure(AGENTIC | {"request_accounting": accounting | {"records_error_dropped": 0}})


def test_a_shape_is_known_by_any_row_of_the_file():
    figures = load_tests.read([{"hello": 1}, AGENTIC], "agg.json", ServerHardware())
    assert (len(figures.figures), len(figures.refusals)) == (1, 1)
    assert "throughput" in refused(load_tests.read(AGENTIC | {"request_metrics": {}}, "agg.json", ServerHardware()))


def test_a_nan_in_an_optional_column_costs_that_column():
    (figure,) = load_tests.read(vllm(median_tpot_ms=float("nan")), "x.json", H200X8).figures
    assert (figure.output, figure.interactivity) == (800, None)
    assert "output_throughput is nan" in refused(load_tests.read(vllm(output_throughput=float("nan")), "x", H200X8))


@pytest.mark.parametrize("size", ["1e999999999", "1e-999999", "1e300"])
def test_a_number_of_absurd_size_is_refused_at_once(size):
    for column in ("output_throughput", "median_tpot_ms", "max_concurrency"):
        assert f"{column} is" in refused(load_tests.read(vllm(**{column: Decimal(size)}), "x", H200X8))


def test_speeds_that_cannot_be_are_no_figures():
    assert "output_throughput" in refused(load_tests.read(vllm(total_token_throughput=700), "x", H200X8))
    (figure,) = load_tests.read(vllm(median_tpot_ms=-1), "x", H200X8).figures
    assert figure.interactivity is None


@pytest.mark.parametrize("value", [-1, 0])
def test_a_speed_or_a_power_that_nobody_can_have_measured_is_unknown(value):
    content = (
        f"model,hardware,gpus_total,tokens_per_s,token_basis,interactivity,watts\nm,H200,8,800,output,{value},{value}\n"
    )
    (figure,) = csv_files.read(content, "x.csv").figures
    assert (figure.interactivity, figure.watts) == (None, None)
    row = inferencex(median_intvty=value, avg_total_gpu_power_w=value, power_valid=1)
    assert (the_figure(row).interactivity, the_figure(row).watts) == (None, None)
    (figure,) = load_tests.read(AIPERF | {"output_token_throughput_per_user": {"avg": value}}, "x", H200X8).figures
    assert figure.interactivity is None


def test_a_figure_in_another_unit_is_not_taken_for_this_one():
    wrong = AIPERF | {"output_token_throughput": {"unit": "tokens/min", "avg": Decimal(800)}}
    assert "tokens/min" in refused(load_tests.read(wrong, "x", H200X8))
    other = {"time_to_first_token": {"unit": "s", "p50": 2}, "request_latency": {"unit": "ms", "p50": 3}}
    assert load_tests.aiperf_latencies(AIPERF | other) == {"median_e2el_ms": 3}


def test_a_system_whose_name_has_thousands_of_digits_is_only_a_row():
    assert len(mlperf.read([row(System="(" + "9" * 5_000 + "x GB200")], "x").figures) == 1


def test_an_unknown_shape_is_refused():
    with pytest.raises(CosttraceError, match="shape of no known result"):
        load_tests.read({"hello": 1}, "x.json", H200X8)


# -- CSV

PLAIN = "model,hardware,gpus_total,tokens_per_s,token_basis,source\nm,NVIDIA H200,8,800,output,us\n"


def test_a_plain_csv_is_a_figure_with_the_basis_that_it_states():
    (figure,) = csv_files.read(PLAIN, "x.csv").figures
    assert figure.bases == ("output",)
    assert price(figure, MINE, "output").per_million == 10


def test_artificial_analysis_is_read_from_what_a_user_wrote_down():
    content = "model,hardware,gpus_total,concurrency,system_output_throughput,median_output_speed\nm,H200,8,64,800,80\n"
    (figure,) = csv_files.read(content, "aa.csv").figures
    assert (figure.provenance.format, figure.concurrency, figure.output) == ("artificial-analysis", 64, 800)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PLAIN.replace(",output,", ",,"), "token_basis is ''"),
        (PLAIN.replace("gpus_total", "gpus").replace(",us", ",us,9").replace("source", "source,nodes"), "gpus_total"),
        (PLAIN.replace("gpus_total", "gpus_per_node"), "gpus_per_node without nodes"),
        (
            "model,hardware,gpus_total,gpus_per_node,nodes,tokens_per_s,token_basis\nm,H200,8,8,9,800,output\n",
            "per-node count may",
        ),
    ],
)
def test_a_csv_row_that_leaves_basis_or_gpus_open_is_refused(content, reason):
    assert reason in refused(csv_files.read(content, "x.csv"))


@pytest.mark.parametrize(
    ("written", "tokens_per_s"),
    [
        ("1,234", "1234"),
        ("1,234,567.5", "1234567.5"),
        ("12,345", "12345"),
        ("1234.5", "1234.5"),
        *((text, None) for text in ("1234,5", "0,5", "0,123", "1.234,5", "12,34,567", "1,2345", "1_000", "1 234")),
        *((text, None) for text in ("\uff11\uff12", "0x10", "1:30")),
    ],
)
def test_only_groups_of_three_are_thousands(written, tokens_per_s):
    imported = csv_files.read(PLAIN.replace(",800,", f',"{written}",'), "x.csv")
    assert [figure.output for figure in imported.figures] == ([Decimal(tokens_per_s)] if tokens_per_s else [])
    if tokens_per_s is None:
        (refusal,) = imported.refusals
        assert refusal.row == "x.csv: line 2"
        assert "tokens_per_s is" in refusal.reason


def test_a_decimal_comma_is_refused_with_what_to_write_instead():
    assert "write 1234.5" in refused(csv_files.read(PLAIN.replace(",800,", ',"1234,5",'), "x.csv"))


@pytest.mark.parametrize("quoted", ["1234,5,400", "1234,5,"])
def test_a_row_with_more_cells_than_the_header_is_refused(quoted):
    content = "model,hardware,gpus_total,concurrency,system_output_throughput,median_output_speed\n"
    imported = csv_files.read(f"{content}m,H200,8,64,{quoted}\n", "aa.csv")
    assert "more cells than the header" in refused(imported)


def test_a_refusal_names_the_line_of_the_file():
    imported = csv_files.read(PLAIN.replace(",us\n", ',"a\nb"\n') + "m,H200,8,x,output,us\n", "x.csv")
    assert [refusal.row for refusal in imported.refusals] == ["x.csv: line 4"]


def test_a_cell_without_an_end_is_an_error_of_the_file():
    with pytest.raises(CosttraceError, match=r"x\.csv"):
        csv_files.read(PLAIN + "m" * 140_000 + ",H200,8,800,output,us\n", "x.csv")


# -- prices and bases


def test_a_figure_is_never_turned_into_another_token_basis():
    (figure,) = csv_files.read(PLAIN, "x.csv").figures
    with pytest.raises(FigureRefused, match="token basis mismatch"):
        price(figure, MINE, "total")
    with pytest.raises(FigureRefused, match="token basis mismatch"):
        same_basis([("a", "output"), ("b", "total")])


def test_without_a_tier_there_is_no_cost():
    with pytest.raises(FigureRefused, match="no price tier"):
        price_all(csv_files.read(PLAIN, "x.csv"), None, "output")


def test_a_price_is_of_one_form_factor():
    tier = TIERS["hyperscaler"]
    assert tier.price("NVIDIA H200-SXM-141GB").per_gpu_hour == Decimal("1.41")
    assert tier.price("Virtualized NVIDIA H200-SXM-141GB").per_gpu_hour == Decimal("1.41")
    for other in ("NVIDIA H200-NVL-141GB", "NVIDIA L40S", "NVIDIA RTX PRO 6000 Blackwell Server Edition"):
        with pytest.raises(FigureRefused, match="no price"):
            tier.price(other)


def test_the_formula_is_exact():
    assert cost_per_million(Decimal("1.95"), 27_083) == Fraction(195, 100) * 1_000_000 / (27_083 * 3_600)
    assert significant(Fraction(1, 50)) == "0.0200"
    assert significant(Fraction(27_083)) == "27,083"


# -- the command


def run(*words):
    return CliRunner().invoke(cli, ["benchmarks", "import", *map(str, words)])


def test_the_command_prints_costs_and_refusals(tmp_path):
    (tmp_path / "x.csv").write_text(PLAIN + "m,NVIDIA H200,8,800,total,us\n")
    done = run(tmp_path / "x.csv", "--tier", "mine=3.60", "--format", "json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.output)
    assert [(one["cost_per_million_tokens"], one["token_basis"], one["tier"]) for one in shown["figures"]] == [
        ("10.000000000", "output", "mine")
    ]
    assert "token basis mismatch" in shown["refused"][0]["reason"]


def test_the_command_takes_a_tier_of_ones_own_price_book(tmp_path):
    (tmp_path / "x.csv").write_text(PLAIN)
    book = Path(__file__).parents[3] / "examples" / "prices" / "sample-2026-11.yaml"
    done = run(tmp_path / "x.csv", "--tier", "neocloud", "--book", book, "--format", "json")
    assert json.loads(done.output)["figures"][0]["per_gpu_hour"] == "1.74"


def test_the_command_reads_what_a_spreadsheet_saved(tmp_path):
    (tmp_path / "x.csv").write_text(PLAIN, encoding="utf-8-sig")
    (tmp_path / "x.json").write_text(json.dumps(vllm(), default=float), encoding="utf-8-sig")
    done = run(tmp_path / "x.csv", tmp_path / "x.json", "--hardware", "H200", "--gpus", 8, "--tier", "mine=3.60")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("words", [[], ["--tier", "cheap"], ["--tier", "mine=free"], ["--tier", "mine=-1"]])
def test_the_command_refuses_a_tier_that_is_none(tmp_path, words):
    (tmp_path / "x.csv").write_text(PLAIN)
    done = run(tmp_path / "x.csv", *words)
    assert isinstance(done.exception, CosttraceError)
