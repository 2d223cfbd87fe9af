"""A worked example: three requests, four steps, every number by hand, by every method.

docs/method/rules.md has another one.

One engine with one device. Its step model has coefficients that are easy to calculate with (seconds; only their
proportions matter, because each step's shares are scaled to the time that it took):

    launch F = 20   weights W = 40   token ct = 2   context kb = 0.1   attention q = 0.05   sequence s = 10

Requests: A (prompt 10, ant), B (prompt 30, bee), C (prompt 20, ant; 10 of them in the prefix cache).

    step  time    who                                        tokens  contexts read  attention
    0     0-6 s   A prompt 10                                  10         -         10 x 0 + 10 x 10 / 2 = 50
    1     6-10 s  A decodes (context 10), B prompt 30          31        10         30 x 0 + 30 x 30 / 2 = 450
    2     10-12 s A decodes (11), B decodes (30)                2        41         -
    3     13-16 s B decodes (31), C prompt 10 behind 10        11        31         10 x 10 + 10 x 10 / 2 = 150

A ends with step 2; B and C end with step 3. From 12 to 13 s nobody wants anything: idle.
"""

import msgspec
import pytest
from attributed import check, sums
from costtrace_lab.engines.schedules import header, started

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.attribution.steps.cost_model import (
    Coefficients,
    Features,
    affine_prices,
    more_beyond_knee,
    roofline_prices,
)
from costtrace.core.events import EngineReady, EngineStopped, SequenceAdded, SequenceFinished, Step

S = 1_000_000_000
T0 = 100 * S
COEFFICIENTS = Coefficients(launch=20.0, token=2.0, weights=40.0, context=0.1, attention=0.05, sequence=10.0)
EVENTS = [
    SequenceAdded(1, T0, "a", "A", "A", "A", 10, "m", "ant", "header"),
    SequenceAdded(2, T0, "b", "B", "B", "B", 30, "m", "bee", "header"),
    Step(0, T0, T0 + 6 * S, (), (), ((1, 10, 0),)),
    Step(1, T0 + 6 * S, T0 + 10 * S, (), ((1, 10),), ((2, 30, 0),)),
    Step(2, T0 + 10 * S, T0 + 12 * S, (), ((2, 30),), ()),
    SequenceFinished(1, T0 + 12 * S, 2, "stop", 3),
    SequenceAdded(3, T0 + 13 * S, "c", "C", "C", "C", 20, "m", "ant", "header"),
    Step(3, T0 + 13 * S, T0 + 16 * S, (1,), (), ((3, 10, 10),)),
    SequenceFinished(2, T0 + 16 * S, 3, "length", 3),
    SequenceFinished(3, T0 + 16 * S, 3, "stop", 1),
    EngineStopped(T0 + 16 * S),
]


def bill(method):
    pipeline = Pipeline(Policy(method), 3_600 * S)
    for event in (header("e", T0), started(("GPU-0",), T0), EngineReady(T0)):
        if event is not None and not pipeline.engines:
            pipeline.add("e", event)
        pipeline.take("e", event)
    pipeline.sweep(T0)
    pipeline.engines["e"].attribution.coefficients = COEFFICIENTS
    for event in EVENTS:
        pipeline.take("e", event)
    pipeline.sweep(1 << 62)
    rows = pipeline.take_rows()
    check(rows, pipeline.all_engine_rows())
    assert sums(rows) == {"request": 15 * S, "idle": 1 * S, "overhead": 0, "unobserved": 0}
    return {record.request_id: record for record in rows.records}


def assert_owes(record, prefill_s, decode_s):
    """To the nanosecond that rounding may move."""
    assert record.prefill_ns == pytest.approx(prefill_s * S, abs=2)
    assert record.decode_ns == pytest.approx(decode_s * S, abs=2)


def test_affine():
    """Weights and tokens count in full. A head fee is (F + W) / heads = 60 / heads.

    step 0: A alone pays all of it                                                                      A 6 s prefill
    step 1: heads 2, so a head is 30
            A  30 + 10 + 2 x 1  + 0.1 x 10           =  43
            B  30 + 10 + 2 x 30            + 0.05 x 450 = 122.5       sum 165.5 for 4 s
    step 2: A  30 + 10 + 2 x 1  + 0.1 x 11           =  43.1
            B  30 + 10 + 2 x 1  + 0.1 x 30           =  45            sum  88.1 for 2 s
    step 3: B  30 + 10 + 2 x 1  + 0.1 x 31           =  45.1
            C  30 + 10 + 2 x 10            + 0.05 x 150 = 67.5        sum 112.6 for 3 s
    """
    used = bill("affine")
    assert_owes(used["A"], 6, 4 * 43 / 165.5 + 2 * 43.1 / 88.1)
    assert_owes(used["B"], 4 * 122.5 / 165.5, 2 * 45 / 88.1 + 3 * 45.1 / 112.6)
    assert_owes(used["C"], 3 * 67.5 / 112.6, 0)
    # In figures: A 6.000 + 2.018 s, B 2.961 + 2.223 s, C 1.798 s; together the 15 s of the four steps.
    assert [round(used[name].gpu_ns / S, 3) for name in "ABC"] == [8.018, 5.184, 1.798]


def test_roofline():
    """Tokens ride for free until their compute takes as long as the reading of the weights: ct x tok = W at 20 tokens.

    Beyond the knee a token costs ct, and who pays is who brings it there, on average over who was first.

    step 0: A alone                                                                                     A 6 s prefill
    step 1: 31 tokens, 11 beyond the knee: A's one is if B was first, so that half a token is A's and 10.5 are B's
            A  30 + 10 + 2 x 0.5  + 0.1 x 10              =  42
            B  30 + 10 + 2 x 10.5            + 0.05 x 450 =  83.5         sum 125.5 for 4 s
    step 2: 2 tokens, below it: a token is free
            A  30 + 10 + 0.1 x 11                         =  41.1
            B  30 + 10 + 0.1 x 30                         =  43           sum  84.1 for 2 s
    step 3: 11 tokens, below it
            B  30 + 10 + 0.1 x 31                         =  43.1
            C  30 + 10                   + 0.05 x 150     =  47.5         sum  90.6 for 3 s
    """
    used = bill("roofline")
    assert_owes(used["A"], 6, 4 * 42 / 125.5 + 2 * 41.1 / 84.1)
    assert_owes(used["B"], 4 * 83.5 / 125.5, 2 * 43 / 84.1 + 3 * 43.1 / 90.6)
    assert_owes(used["C"], 3 * 47.5 / 90.6, 0)
    assert [round(used[name].gpu_ns / S, 3) for name in "ABC"] == [8.316, 5.111, 1.573]


def test_tokens():
    """Every computed token pays the same: 10; 1 and 30 of 31; 1 and 1; 1 and 10 of 11."""
    used = bill("tokens")
    assert_owes(used["A"], 6, 4 / 31 + 1)
    assert_owes(used["B"], 4 * 30 / 31, 1 + 3 / 11)
    assert_owes(used["C"], 3 * 10 / 11, 0)


def test_equal():
    """Every sequence pays the same: all; half and half; half and half; half and half."""
    used = bill("equal")
    assert_owes(used["A"], 6, 2 + 1)
    assert_owes(used["B"], 2, 1 + 1.5)
    assert_owes(used["C"], 1.5, 0)


def test_who_and_what_is_on_the_records():
    used = bill("affine")
    assert {name: record.tenant for name, record in used.items()} == {"A": "ant", "B": "bee", "C": "ant"}
    assert (used["C"].input_tokens, used["C"].cached_tokens, used["C"].computed_tokens) == (20, 10, 10)
    assert [(used[n].steps, used[n].batch_milli) for n in "ABC"] == [(3, 1_666), (3, 2_000), (1, 2_000)]
    assert all(record.wasted_ns == 0 and record.simulated for record in used.values())


def test_the_price_lists_of_step_1():
    step = Features(heads=2, sequences=2, tokens=31, context=10, attention=450)
    assert affine_prices(COEFFICIENTS, step)[:5] == (30.0, 10.0, 2.0, 0.1, 0.05)
    alike = roofline_prices(COEFFICIENTS, step)  # as if all 31 were decoded one by one
    assert alike[:5] == (30.0, 10.0, pytest.approx(22 / 31), 0.1, 0.05)
    more = more_beyond_knee(COEFFICIENTS, [30], 1)[30]
    prices = roofline_prices(COEFFICIENTS, step._replace(beyond=more))
    assert (more, prices.token, prices.beyond) == (10.5 - 15, pytest.approx(1.0), 2.0)


def test_a_step_that_takes_twice_as_long_costs_everybody_twice_as_much():
    used = bill("affine")
    slow = [
        msgspec.structs.replace(e, scheduled_ns=2 * e.scheduled_ns, done_ns=2 * e.done_ns)
        if isinstance(e, Step)
        else msgspec.structs.replace(e, at_ns=2 * e.at_ns)
        for e in EVENTS
    ]
    pipeline = Pipeline(Policy("affine"), 3_600 * S)
    pipeline.add("e", header("e", 2 * T0))
    for event in (header("e", 2 * T0), started(("GPU-0",), 2 * T0), EngineReady(2 * T0)):
        pipeline.take("e", event)
    pipeline.sweep(2 * T0)
    pipeline.engines["e"].attribution.coefficients = COEFFICIENTS
    for event in slow:
        pipeline.take("e", event)
    pipeline.sweep(1 << 62)
    twice = {record.request_id: record for record in pipeline.take_rows().records}
    for name in "ABC":
        assert twice[name].gpu_ns == pytest.approx(2 * used[name].gpu_ns, abs=3)
