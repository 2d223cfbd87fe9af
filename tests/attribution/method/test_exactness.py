"""Integer counters lose nothing, over many steps: the benchmark's own check."""

import pytest
from bench_exact import run


@pytest.mark.parametrize("steps", [20_000, pytest.param(1_000_000, marks=pytest.mark.heavy)])
def test_what_the_steps_took_is_what_is_paid_owed_and_carried(steps):
    outcome = run(steps)
    assert outcome.given == outcome.paid + outcome.owed + outcome.carry
    assert outcome.left > steps // 100
