"""Adjustments: each takes back exactly what was charged last, and charges the same quantities at another rate."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from costtrace.ledger.verify.lines import Discrepancy, RateLine, shown
from costtrace.ledger.verify.money import Purse


class AdjustmentLine(NamedTuple):
    """An adjustment as it stands."""

    adjustment_id: int
    run_id: int
    posting_id: int
    booked_ns: int
    period: str
    gpu_ns: int
    energy_uj: int | None
    engine_id: str
    from_rate_id: str
    from_device_nano: int | None
    from_energy_nano: int | None
    rate_id: str
    device_nano: int | None
    energy_nano: int | None
    same: int
    """1: its dimensions and quantities are its posting's. 0: they are not. -1: it has no posting any more."""
    posted_rate_id: str
    posted_device_nano: int | None
    posted_energy_nano: int | None
    due_ns: int
    """Where its posting is booked."""

    @property
    def name(self) -> str:
        """How a discrepancy names it."""
        return (
            f"adjustment {self.adjustment_id} of posting {self.posting_id} (run {self.run_id}, engine {self.engine_id})"
        )


class RunLine(NamedTuple):
    """A re-rating and what it says it came to, nano-units by currency."""

    run_id: int
    before: Mapping[str, int]
    after: Mapping[str, int]


Charge = tuple[str, int | None, int | None]
Posted = tuple[str, int]
"""Engine and number of a posting: numbers are of one ledger."""


def check_adjustments(
    lines: Iterable[AdjustmentLine], runs: Iterable[RunLine], rates: Mapping[str, RateLine]
) -> Iterator[Discrepancy]:
    """What is wrong with *lines* (sorted by adjustment_id), by themselves and in sum."""
    purses: dict[tuple[int, str, str], Purse] = {}
    newest: dict[Posted, Charge] = {}
    before: dict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    after: dict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in lines:
        yield from _check_line(line, newest)
        newest[line.engine_id, line.posting_id] = (line.rate_id, line.device_nano, line.energy_nano)
        rate = rates.get(line.rate_id)
        if rate is None:
            yield _off(line.name, "rate_id", "one that the ledger knows", line.rate_id, "it cannot be recomputed")
            continue
        key = (line.run_id, line.engine_id, line.rate_id)
        if key not in purses:
            purses[key] = Purse(line.engine_id, rate)
        yield from purses[key].charge(line)
        _count(before[line.run_id], rates, line.from_rate_id, line.from_device_nano, line.from_energy_nano)
        _count(after[line.run_id], rates, line.rate_id, line.device_nano, line.energy_nano)
    yield from _check_runs(runs, before, after)


def _check_line(line: AdjustmentLine, newest: Mapping[Posted, Charge]) -> Iterator[Discrepancy]:
    if line.same == 0:
        meaning = "an adjustment changes the price, never who, what or how much"
        yield _off(line.name, "dimensions and quantities", "those of its posting", "others", meaning)
    if line.same >= 0:
        posted = (line.posted_rate_id, line.posted_device_nano, line.posted_energy_nano)
        due = newest.get((line.engine_id, line.posting_id), posted)
        found = (line.from_rate_id, line.from_device_nano, line.from_energy_nano)
        for field, expected, value in zip(("rate_id", "device_nano", "energy_nano"), due, found, strict=True):
            if expected != value:
                meaning = "it does not take back what was charged before it"
                yield _off(line.name, f"from_{field}", shown(expected), shown(value), meaning)
        if not line.period and line.booked_ns != line.due_ns:
            meaning = "in an open period it counts where its posting does"
            yield _off(line.name, "booked_ns", str(line.due_ns), str(line.booked_ns), meaning)


def _count(
    sums: defaultdict[str, int], rates: Mapping[str, RateLine], rate_id: str, device: int | None, energy: int | None
) -> None:
    rate = rates.get(rate_id)
    if rate is not None and device is not None and energy is not None:
        sums[rate.currency] += device + energy


def _check_runs(
    runs: Iterable[RunLine], before: Mapping[int, Mapping[str, int]], after: Mapping[int, Mapping[str, int]]
) -> Iterator[Discrepancy]:
    seen = set()
    for run in runs:
        seen.add(run.run_id)
        for field, says, sums in (("before", run.before, before), ("after", run.after, after)):
            found = dict(sums.get(run.run_id, {}))
            if dict(says) != found:
                meaning = "its adjustments do not sum to what the re-rating says"
                yield _off(f"re-rating {run.run_id}", field, str(dict(says)), str(found), meaning)
    for run_id in sorted(before.keys() - seen):
        yield _off(f"re-rating {run_id}", "run_id", "a row", "none", "adjustments without a reason")


def _off(row: str, field: str, expected: str, found: str, meaning: str) -> Discrepancy:
    return Discrepancy("adjustments", row, field, expected, found, meaning)
