"""The tests' own trial balance: does everything add up? Independent of `ledger.verify`, and with ``==`` only."""

from collections import defaultdict
from itertools import pairwise

import msgspec

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.events import Heartbeat, SegmentHeader, Step
from costtrace.core.rows import Rows

KINDS = ("request", "idle", "overhead", "unobserved")
WINDOW_NS = 1_000_000_000


def when(event):
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
            reached = max(reached, when(event))
            rows.append((reached, engine_id, event))
    return sorted(rows, key=lambda row: row[0])


def attribute(lives, *, sweep_at=None, save=False, window_ns=WINDOW_NS, policy=Policy(), interrupted=True):  # noqa: B008
    """Rows and engine rows of *lives* (engine id -> events). *sweep_at(n)*: sweep after event n? Default: at the end.

    *save*: encode and decode the whole state at every sweep, as an agent that is killed there does.
    """
    node = Pipeline(policy, window_ns)
    rows = Rows([], [], [])

    def take():
        for kept, new in zip(rows, node.take_rows(), strict=True):
            kept.extend(new)

    for n, (reached, engine_id, event) in enumerate(in_order(lives)):
        if isinstance(event, SegmentHeader):
            node.add(engine_id, event)
        node.feed(engine_id, event)
        if sweep_at is not None and sweep_at(n):
            node.sweep(reached - 1)
            take()
            if save:
                node = msgspec.json.decode(msgspec.json.encode(node), type=Pipeline)
    if interrupted:
        for engine_id in lives:
            node.end(engine_id)
    node.sweep(1 << 62)
    take()
    return rows, node.all_engine_rows()


def by_engine(rows):
    """The rows as values that can be compared: each engine's in their order."""
    found = defaultdict(list)
    for row in (*rows.postings, *rows.meter, *rows.records):
        found[row.engine_id].append(row)
    return dict(found)


def given(row):
    return sum(getattr(row, f"{kind}_ns") for kind in KINDS)


def union_ns(intervals):
    total = reached = 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def check(rows, engines):
    """Everything that has to hold, whatever happened."""
    check_windows(rows)
    check_tiling(rows, engines)
    check_devices(rows, engines)
    check_records(rows)


def check_windows(rows):
    posted, metered = defaultdict(int), defaultdict(int)
    for p in rows.postings:
        posted[p.engine_id, p.window_ns, p.kind] += p.gpu_ns
        assert p.gpu_ns >= 0
        assert (p.kind == "request") == bool(p.record_id)
        if p.kind == "request":
            assert p.gpu_ns == p.prefill_ns + p.decode_ns
            assert min(p.prefill_ns, p.decode_ns, p.wasted_ns) >= 0
    for m in rows.meter:
        for kind in KINDS:
            metered[m.engine_id, m.window_ns, kind] += getattr(m, f"{kind}_ns")
            assert getattr(m, f"{kind}_ns") >= 0
    assert {k: v for k, v in posted.items() if v} == {k: v for k, v in metered.items() if v}


def check_tiling(rows, engines):
    for engine in engines:
        for device in engine.devices:
            mine = [m for m in rows.meter if (m.engine_id, m.device) == (engine.engine_id, device)]
            if engine.ended_ns == engine.started_ns:
                assert mine == []
                continue
            assert mine[0].start_ns == engine.started_ns
            assert mine[-1].end_ns == engine.ended_ns
            assert all(before.end_ns == after.start_ns for before, after in pairwise(mine))
            assert all(m.end_ns > m.start_ns for m in mine)
            for m in mine:
                wall_ns = m.end_ns - m.start_ns
                assert given(m) <= wall_ns if m.shared else given(m) == wall_ns


def check_devices(rows, engines):
    for device in {m.device for m in rows.meter}:
        lives = [(e.started_ns, e.ended_ns) for e in engines if device in e.devices]
        assert sum(given(m) for m in rows.meter if m.device == device) == union_ns(lives)


def check_records(rows):
    ids = [r.record_id for r in rows.records]
    assert len(ids) == len(set(ids))
    posted = defaultdict(lambda: [0, 0, 0, 0])
    for p in rows.postings:
        if p.record_id:
            for i, value in enumerate((p.gpu_ns, p.prefill_ns, p.decode_ns, p.wasted_ns)):
                posted[p.record_id][i] += value
    assert posted.keys() <= set(ids)
    for r in rows.records:
        assert [r.gpu_ns, r.prefill_ns, r.decode_ns, r.wasted_ns] == posted[r.record_id]
        assert 0 <= r.wasted_ns <= r.gpu_ns == r.prefill_ns + r.decode_ns


def sums(rows):
    """Total by kind."""
    return {kind: sum(p.gpu_ns for p in rows.postings if p.kind == kind) for kind in KINDS}


def beat(at_ns, offset_ns, in_flight_ns=0, done_index=-1):
    return Heartbeat(at_ns, at_ns + offset_ns, in_flight_ns, done_index)
