"""Adjustments: each takes back exactly what was charged last, and charges the same quantities at another rate."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from costtrace.ledger.verify.lines import Discrepancy, RateLine, shown
from costtrace.ledger.verify.money import RunningAccount


class AdjustmentLine(NamedTuple):
    """An adjustment, as the ledger has it, beside its posting."""

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
    """1: its dimensions and quantities are its posting's. 0: they are not. -1: its posting was compacted."""
    posted_rate_id: str
    posted_device_nano: int | None
    posted_energy_nano: int | None
    due_ns: int
    """Wall time at which its posting is booked."""

    @property
    def name(self) -> str:
        """How a discrepancy names it."""
        return (
            f"adjustment {self.adjustment_id} of posting {self.posting_id} (run {self.run_id}, engine {self.engine_id})"
        )


class RunLine(NamedTuple):
    """A re-rating, and what its row says the adjusted postings cost: nano-units by currency."""

    run_id: int
    before: Mapping[str, int]
    after: Mapping[str, int]


Charge = tuple[str, int | None, int | None]
PostingKey = tuple[str, int]
"""Engine and number of a posting: in a fleet store two ledgers have the same numbers."""


def check_adjustments(
    lines: Iterable[AdjustmentLine], runs: Iterable[RunLine], rates: Mapping[str, RateLine]
) -> Iterator[Discrepancy]:
    """Check *lines* (sorted by adjustment_id) one by one, and their sums against *runs*."""
    accounts: dict[tuple[int, str, str], RunningAccount] = {}
    newest: dict[PostingKey, Charge] = {}
    before: dict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    after: dict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in lines:
        yield from _check_line(line, newest)
        newest[line.engine_id, line.posting_id] = (line.rate_id, line.device_nano, line.energy_nano)
        rate = rates.get(line.rate_id)
        if rate is None:
            yield _discrepancy(
                line.name, "rate_id", "one that the ledger knows", line.rate_id, "it cannot be recomputed"
            )
            continue
        key = (line.run_id, line.engine_id, line.rate_id)
        if key not in accounts:
            accounts[key] = RunningAccount(line.engine_id, rate)
        yield from accounts[key].charge(line)
        _count(before[line.run_id], rates, line.from_rate_id, line.from_device_nano, line.from_energy_nano)
        _count(after[line.run_id], rates, line.rate_id, line.device_nano, line.energy_nano)
    yield from _check_runs(runs, before, after)


def _check_line(line: AdjustmentLine, newest: Mapping[PostingKey, Charge]) -> Iterator[Discrepancy]:
    if line.same == 0:
        meaning = "an adjustment changes the price, never who, what or how much"
        yield _discrepancy(line.name, "dimensions and quantities", "those of its posting", "others", meaning)
    if line.same >= 0:
        posted = (line.posted_rate_id, line.posted_device_nano, line.posted_energy_nano)
        expected = newest.get((line.engine_id, line.posting_id), posted)
        taken_back = (line.from_rate_id, line.from_device_nano, line.from_energy_nano)
        for field, due, value in zip(("rate_id", "device_nano", "energy_nano"), expected, taken_back, strict=True):
            if due != value:
                meaning = "it does not take back what was charged before it"
                yield _discrepancy(line.name, f"from_{field}", shown(due), shown(value), meaning)
        if not line.period and line.booked_ns != line.due_ns:
            meaning = "in an open period it counts where its posting does"
            yield _discrepancy(line.name, "booked_ns", str(line.due_ns), str(line.booked_ns), meaning)


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
        for field, stated, sums in (("before", run.before, before), ("after", run.after, after)):
            summed = dict(sums.get(run.run_id, {}))
            if dict(stated) != summed:
                meaning = "its adjustments do not sum to what the re-rating says"
                yield _discrepancy(f"re-rating {run.run_id}", field, str(dict(stated)), str(summed), meaning)
    for run_id in sorted(before.keys() - seen):
        yield _discrepancy(f"re-rating {run_id}", "run_id", "a row", "none", "adjustments without a reason")


def _discrepancy(row: str, field: str, expected: str, found: str, meaning: str) -> Discrepancy:
    return Discrepancy("adjustments", row, field, expected, found, meaning)
