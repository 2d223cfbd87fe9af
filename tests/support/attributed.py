"""Running attribution over the lives of engines, as an agent would, and looking at what it yields."""

from collections import defaultdict

import balance
import msgspec

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.events import Heartbeat, SegmentHeader, Step
from costtrace.core.rows import Rows

WINDOW_NS = 1_000_000_000
DEFAULT_POLICY = Policy()


def newest_ns(event):
    """The newest monotonic time that an event shows (0: none)."""
    if isinstance(event, Step):
        return event.done_ns
    if isinstance(event, SegmentHeader):
        return event.monotonic_ns
    return max(getattr(event, "at_ns", 0), getattr(event, "to_ns", 0))


def in_order(lives):
    """(time, engine, event) of several engines, as an agent that is there all the time meets them."""
    rows = []
    for engine_id, events in lives.items():
        reached = 0
        for event in events:
            reached = max(reached, newest_ns(event))
            rows.append((reached, engine_id, event))
    return sorted(rows, key=lambda row: row[0])


def attribute(lives, *, sweep_at=None, save=False, window_ns=WINDOW_NS, policy=DEFAULT_POLICY, interrupted=True):
    """Rows and engine rows of *lives* (engine id -> events). *sweep_at(n)*: sweep after event n? Default: at the end.

    *save*: encode and decode the whole state at every sweep, as an agent that is killed there does.
    """
    pipeline = Pipeline(policy, window_ns)
    rows = Rows([], [], [])

    def take():
        for kept, new in zip(rows, pipeline.take_rows(), strict=True):
            kept.extend(new)

    for n, (reached, engine_id, event) in enumerate(in_order(lives)):
        if isinstance(event, SegmentHeader):
            pipeline.add(engine_id, event)
        pipeline.take(engine_id, event)
        if sweep_at is not None and sweep_at(n):
            pipeline.sweep(reached - 1)
            take()
            if save:
                pipeline = msgspec.json.decode(msgspec.json.encode(pipeline), type=Pipeline)
    if interrupted:
        for engine_id in lives:
            pipeline.end(engine_id)
    pipeline.sweep(1 << 62)
    take()
    return rows, pipeline.all_engine_rows()


def check(rows, engines):
    """The rows add up: see `balance`."""
    balance.check(balance.books_of(rows, engines))


def by_engine(rows):
    """The rows as values that can be compared: each engine's in their order."""
    lines = defaultdict(list)
    for row in (*rows.postings, *rows.meter, *rows.records):
        lines[row.engine_id].append(row)
    return dict(lines)


def given_ns(row):
    """What a device gave an engine in one meter row."""
    return sum(getattr(row, f"{kind}_ns") for kind in balance.KINDS)


def sums(rows):
    """Total by kind."""
    return {kind: sum(p.gpu_ns for p in rows.postings if p.kind == kind) for kind in balance.KINDS}


def beat(at_ns, offset_ns, in_flight_ns=0, done_index=-1):
    """A heartbeat whose wall clock is *offset_ns* ahead of the monotonic one."""
    return Heartbeat(at_ns, at_ns + offset_ns, in_flight_ns, done_index)
