"""Is a nanosecond ever made or lost? Many synthetic steps through the integer counters; what floats would have said.

    python benchmarks/bench_exact.py [--steps 100_000_000] [--seed 1]

Sequences of all lengths come and go, some steps have prefill chunks, prices change with every step. At the end, with
``==``: what all steps took is what everybody has paid, what those who are there owe, and the carry. Beside it the same
counters in 64-bit floats: how far the payment of the sequences that leave last is off.

It is a check that can take minutes (about 3 us a step), not a measurement of anything that is simulated.
"""

import argparse
import random
import time
from typing import NamedTuple

from costtrace.attribution.shares.virtual_time import HEAD, SHIFT, Cohort, CostCounter, ItemUse
from costtrace.attribution.steps.prices import Prices

PLANS = 4_096
"""Prices and lengths repeat after so many steps (a prime number of members' changes keeps them out of step)."""
CHANGE_EVERY = 61


class Outcome(NamedTuple):
    """What came out; the books balance if `given` is `paid` + `owed` + `carry`."""

    steps: int
    given: int
    paid: int
    owed: int
    carry: int
    left: int
    """Sequences that have left."""
    worst_float: float
    """Largest relative error of a 64-bit float counter's payment, of those that left in the last hundredth."""

    def lost(self):
        """Parts of 2**-40 ns that were made or lost."""
        return self.given - self.paid - self.owed - self.carry


def plan(rng):
    """A step's length in ns, and its prices."""
    prices = Prices(rng.uniform(1e-3, 1e-2), rng.uniform(0, 1e-5), rng.uniform(0, 1e-4), rng.uniform(0, 1e-7),
                    rng.uniform(0, 1e-9), "roofline")  # fmt: skip
    return rng.randrange(1_000_000, 60_000_000), prices


def run(steps, seed=1):
    """All of it, in one thread."""
    rng = random.Random(seed)
    plans = [plan(rng) for _ in range(PLANS)]
    chunks = [ItemUse(c := rng.randrange(1, 4_096), 0, c * rng.randrange(0, 8_000) + c * c // 2) for _ in range(257)]
    clock, cohort = CostCounter(), Cohort()
    members, floats = {}, [0.0, 0.0, 0.0, 0.0]
    given = paid = left = number = 0
    worst = 0.0
    for step in range(steps):
        if step % CHANGE_EVERY == 0:
            for _ in range(rng.randrange(1, 4)):
                context = rng.randrange(1, 32_000)
                cohort.enter(number, context, None)
                cohort.weight += HEAD
                members[number] = (clock.mark(), cohort.step, context, tuple(floats))
                number += 1
            while len(members) > 64 or (members and rng.random() < 0.4):
                slot = next(iter(members))
                mark, step0, context, before = members.pop(slot)
                owed = clock.owed(mark, step0, context)
                cohort.leave(slot, context, step0, None)
                cohort.weight -= HEAD
                paid += owed
                left += 1
                if step > steps - steps // 100 and owed:
                    h, a, b, c = (now - then for now, then in zip(floats, before, strict=True))
                    naive = h + a + (context - step0) * b + c
                    worst = max(worst, abs(naive * 2**SHIFT / owed - 1.0))
        total, prices = plans[step % PLANS]
        given += total << SHIFT
        items = (chunks[step % 257],) if step % 7 == 0 else ()
        then = clock.h, clock.a, clock.b
        paid += sum(clock.charge(total, cohort, items, prices))
        per_head, per_member, per_context = clock.h - then[0], clock.a - then[1], clock.b - then[2]
        floats[0] += per_head * 2**20 / 2**SHIFT
        floats[1] += per_member / 2**SHIFT
        floats[2] += per_context / 2**SHIFT
        floats[3] += per_context / 2**SHIFT * cohort.step
        cohort.advance(None)
    owed = sum(clock.owed(mark, step0, context) for mark, step0, context, _ in members.values())
    return Outcome(steps, given, paid, owed, clock.carry, left, worst)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=lambda text: int(float(text)), default=10**6)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    began = time.perf_counter()
    result = run(given.steps, given.seed)
    took = time.perf_counter() - began
    print(f"{result.steps:,} steps, {result.left:,} sequences left, {result.given >> SHIFT:,} ns given")
    print(f"made or lost: {result.lost()} parts of 2**-40 ns")
    print(f"64-bit floats would have been off by up to {result.worst_float:.1e} (relative, newest sequences)")
    print(f"{took:.0f} s, {took / result.steps * 1e6:.2f} us a step, all of this program included")
    assert result.lost() == 0


if __name__ == "__main__":
    main()
