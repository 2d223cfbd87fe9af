"""Why a request was expensive: each cause is found, and named first where it explains most."""

import pytest
from plain_request import KEY, PLAIN

from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.ledger.answers import Habit, Request
from costtrace.reports.requests.why import usual, why

PEERS = usual([Habit(*KEY, 1_000, 100, 50, 40, 8_000, NS_PER_MS) for _ in range(5)], [KEY])


def reasons(**fields):
    return why(Request(**{**PLAIN, **fields}), PEERS[KEY])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input_tokens": 300, "cached_tokens": 150}, "long prompt: 300 tokens, 3.0 x the median"),
        ({"output_tokens": 80}, "long output: 80 tokens, 2.0 x the median"),
        ({"batch_milli": 2_000}, "small batch: 2.0 sequences shared its steps, usually 8.0"),
        ({"cached_tokens": 0}, "cache miss: 0 % of its prompt was cached, usually 50 %"),
        ({"preemptions": 1, "wasted_ns": 300}, "preempted once and computed again, 30 % of it wasted"),
        ({"preemptions": 3}, "preempted 3 times"),
        ({"finish_reasons": ("abort",), "wasted_ns": 1_000}, "ended by abort: 100 % of it wasted"),
        ({"sequences": 4}, "4 sequences"),
        ({"wasted_ns": 100}, "10 % of it wasted: computed after its end, or again"),
        ({"scheduled_ns": 4 * NS_PER_S}, "waited 3.00 s in the queue (that costs nothing)"),
        ({"scheduled_ns": 0}, "it never ran"),
        ({"gpu_ns": 2_000}, "2.0 x the median GPU time, by a little of everything"),
    ],
)
def test_each_cause_is_said_and_nothing_else(fields, words):
    assert words in reasons(**fields)
    assert reasons(**fields).count(";") <= 1


def test_a_request_like_all_others_is_near_the_median():
    assert reasons() == "near the median"


def test_what_is_furthest_from_the_median_is_said_first():
    assert reasons(input_tokens=300, cached_tokens=150, output_tokens=400).startswith("long output")


def test_a_request_without_peers_is_compared_with_nothing():
    assert why(Request(**PLAIN), None) == "nothing to compare it with"


def test_medians_are_of_the_same_tenant_and_model_only():
    others = [Habit("blue", "m", 9, 9, 9, 9, 9, 9), Habit("acme", "other", 9, 9, 9, 9, 9, 9)]
    own = [Habit(*KEY, gpu_ns, 1, 0, 1, 1_000, 0) for gpu_ns in (1, 5, 100)]
    medians = usual([*others, *own], [KEY, ("nobody", "m")])
    assert list(medians) == [KEY]
    assert (medians[KEY].requests, medians[KEY].gpu_ns) == (3, 5)
