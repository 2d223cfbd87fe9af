"""The gap ladder multiplies to the whole gap exactly, and what is not known is shown as unknown."""

from fractions import Fraction

import pytest
from costtrace_board import inferencex
from costtrace_board.assemble import Benchmark, Production, benchmark_of, climb
from costtrace_board.cells import Cell
from costtrace_board.figures import FigureRefused, Imported
from costtrace_board.ladder import Phases, Step, build, mix_and_cache, occupancy, unknown
from costtrace_board.load_tests import ServerHardware
from costtrace_board.published import TIERS
from hypothesis import given
from hypothesis import strategies as st

from costtrace.reports.usage.summary import Line

FACTORS = st.one_of(st.none(), st.fractions(min_value="1/1000", max_value=1000))


@given(
    st.fractions(min_value="1/1000", max_value=1000),
    st.fractions(min_value="1/1000", max_value=1000),
    st.lists(FACTORS, max_size=8),
)
def test_the_steps_multiply_to_the_whole_gap_exactly(start, end, factors):
    steps = [Step(str(k), factor, "unknown" if factor is None else "measured", "") for k, factor in enumerate(factors)]
    ladder = build(("peak", "output", start), ("us", "output", end), steps, "USD")
    product = start
    for step in ladder.steps:
        product *= step.factor if step.factor is not None else 1
        assert step.after in {None, product}
    assert product == end
    assert ladder.gap == end / start
    assert [step.factor for step in ladder.steps[:-1]] == factors


def test_an_unknown_step_has_no_factor_and_is_named_in_the_rest():
    steps = [unknown("service level", "needs a figure"), Step("idle", Fraction(2), "measured", "")]
    ladder = build(("peak", "output", Fraction(1)), ("us", "output", Fraction(6)), steps, "USD")
    assert [(step.name, step.factor, step.how) for step in ladder.steps] == [
        ("service level", None, "unknown"),
        ("idle", 2, "measured"),
        ("not explained", 3, "rest"),
    ]
    assert "service level" in ladder.steps[-1].source


def test_two_token_bases_make_no_ladder():
    with pytest.raises(FigureRefused, match="token basis mismatch"):
        build(("peak", "total", Fraction(1)), ("us", "output", Fraction(2)), [], "USD")
    with pytest.raises(FigureRefused, match="above 0"):
        build(("peak", "total", Fraction(0)), ("us", "total", Fraction(2)), [], "USD")


def test_mix_and_cache_are_what_they_are_by_hand():
    # 100 computed prompt tokens of 1 ns, 100 cached, 100 output tokens of 9 ns.
    used = Phases(200, 100, 100, 100, 900)
    mix, cache = mix_and_cache(used, Fraction(1), Fraction(1), "total")
    # 2:1 without cache costs (2 x 1 + 9) / 3 a token; the benchmark's 1:1 costs (1 + 9) / 2
    assert mix.factor == Fraction(11, 3) / 5
    # in truth 1,000 ns / 300 tokens
    assert cache.factor == Fraction(1000, 300) / Fraction(11, 3)
    assert mix_and_cache(used, Fraction(1), Fraction(1), "output")[0].factor == Fraction(11, 10)


def test_occupancy_compares_with_the_cheapest_tenth_of_the_tokens():
    hours = [(10, 10), (30, 10), (30, 10), (30, 10)]
    assert occupancy(hours).factor == Fraction(100, 40)
    assert occupancy(hours[:3]).factor is None


def production(**fields):
    line = {
        "gpu_ns": 1_000, "prefill_ns": 100, "decode_ns": 900, "input_tokens": 200, "cached_tokens": 100,
        "output_tokens": 100, "cost_nano": 4_000,
    }  # fmt: skip
    direct = Line((), "request", **{**line, **fields})
    idle = Line((), "idle", gpu_ns=1_200, cost_nano=4_800)
    hours = [(250, 100), (250, 75), (250, 65), (250, 60)]
    return Production("us", Cell("m", "gpu", "", "USD", direct, idle), hours, 1_000, 200)


def test_the_ladder_of_a_ledger_names_each_step_and_ends_at_its_cost():
    start = Benchmark("peak", "total", "USD", Fraction("0.02"), Fraction("1.95"), (Fraction(1), Fraction(1)))
    ladder = climb(start, production())
    assert [(step.name, step.how) for step in ladder.steps] == [
        ("service level", "unknown"),
        ("traffic mix", "measured"),
        ("prefix cache", "measured"),
        ("batch occupancy", "measured"),
        ("idle", "measured"),
        ("price tier", "measured"),
        ("overhead", "measured"),
        ("not explained", "rest"),
    ]
    by_name = {step.name: step.factor for step in ladder.steps}
    assert by_name["idle"] == 2
    assert by_name["overhead"] == Fraction(2_200, 2_000)
    # 8,800 nano for 2,200 ns: 4 per ns of 3.6e12 ns an hour, 1e9 nano a unit
    assert by_name["price tier"] == Fraction(8_800 * 3_600, 2_200) / Fraction("1.95")
    assert ladder.end == Fraction(8_800 * 1_000_000, 300 * 10**9)


def test_a_ladder_needs_a_full_cost_and_one_currency():
    start = Benchmark("peak", "total", "USD", Fraction("0.02"))
    with pytest.raises(FigureRefused, match="not known in full"):
        climb(start, production(cost_unknown_ns=1))
    with pytest.raises(FigureRefused, match="EUR"):
        climb(start._replace(currency="EUR"), production())


def test_without_the_benchmarks_mix_and_price_those_steps_are_unknown():
    ladder = climb(Benchmark("peak", "output", "USD", Fraction("0.02")), production())
    assert {step.name for step in ladder.steps if step.how == "unknown"} == {
        "service level",
        "traffic mix",
        "price tier",
    }


def test_a_benchmark_file_gives_peak_and_service_level():
    def run(conc, tput, tpot):
        data = {
            "hw": "b200", "infmax_model_prefix": "gptoss", "tput_per_gpu": tput, "tp": 1, "conc": conc,
            "median_tpot": tpot, "isl": 1024, "osl": 1024,
        }  # fmt: skip
        return inferencex.figure(data, "agg.json", str(conc))

    imported = Imported((run(512, 27_083, "0.05"), run(64, 10_000, "0.01"), run(4, 1_000, "0.004")))
    start = benchmark_of(imported, TIERS["hyperscaler"], "total", "gptoss", 100)
    assert round(float(start.peak), 4) == 0.02
    assert start.service / start.peak == Fraction(27_083, 10_000)
    assert start.mix == (1024, 1024)
    missing = benchmark_of(imported, TIERS["hyperscaler"], "total", "gptoss", 1_000)
    assert missing.service is None
    with pytest.raises(FigureRefused, match="no figure of"):
        benchmark_of(imported, TIERS["hyperscaler"], "total", "other", None)
    assert ServerHardware().gpus is None
