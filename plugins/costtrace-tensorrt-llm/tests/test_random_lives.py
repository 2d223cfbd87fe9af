"""Random lives of the double of TensorRT-LLM: whatever the loop, the version, the requests and the failures."""

import random

import pytest
from attributed import sums
from costtrace_tensorrt_llm.server_side.contexts import Contexts
from double.cuda import Host
from double.loops import random_plans, run_attention_dp
from double.signatures import COLUMNS
from double_journal import (
    Rank,
    assert_books_balance,
    assert_closed_after_the_last_batch,
    assert_everybody_pays_for_his_batches,
    bill,
)

LOOPS = (
    {"loop": "plain"},
    {"loop": "overlap"},
    {"loop": "stage", "stages": 2, "stage": 0},
    {"loop": "pipeline", "stages": 2, "stage": 1},
)
SEEDS = [*range(10, 16), *(pytest.param(seed, marks=pytest.mark.heavy) for seed in range(16, 140))]


def all_hold(rank):
    assert_books_balance(rank)
    assert_everybody_pays_for_his_batches(rank)
    assert_closed_after_the_last_batch(rank)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_life_adds_up(monkeypatch, seed):
    chosen = random.Random(seed)
    options = dict(chosen.choice(LOOPS), seed=seed, column=chosen.choice(list(COLUMNS)))
    plans = random_plans(seed, chosen.randrange(1, 20), drafts=chosen.choice((0, 0, 3)))
    all_hold(Rank(monkeypatch, plans, fail_at=chosen.choice((-1, -1, chosen.randrange(30))), **options).serve())


@pytest.mark.parametrize("tier", ["T1-native", "T2"])
@pytest.mark.parametrize("seed", SEEDS[::2])
def test_whatever_a_lower_tier_knows_of_a_random_life_all_kinds_are_the_wall_time(monkeypatch, seed, tier):
    chosen = random.Random(seed)
    plans = random_plans(seed, chosen.randrange(1, 20), drafts=chosen.choice((0, 3)))
    fail_at = chosen.choice((-1, chosen.randrange(30)))
    options = dict(chosen.choice([loop for loop in LOOPS if loop["loop"] != "stage"]), seed=seed, fail_at=fail_at)
    rank = Rank(monkeypatch, plans, tier=tier, stats=True, **options).serve()
    assert sum(sums(bill(rank)).values()) == rank.ended_ns - rank.started_ns
    assert rank.gpu.synchronised == 0


@pytest.mark.parametrize("seed", SEEDS[::4])
def test_random_lives_of_ranks_that_run_in_step_add_up(monkeypatch, seed):
    host, contexts = Host(), Contexts()
    count = random.Random(seed).randrange(2, 5)
    ranks = [Rank(monkeypatch, [], host=host, contexts=contexts, place=place, seed=place) for place in range(count)]
    run_attention_dp([rank.executor for rank in ranks], random_plans(seed, 10))
    for rank in ranks:
        all_hold(rank.end())
