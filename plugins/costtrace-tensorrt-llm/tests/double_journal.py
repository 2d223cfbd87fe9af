"""Drives the double of TensorRT-LLM with the plugin's real hooks, and derives the right bill from the fake GPU."""

from collections import defaultdict
from fractions import Fraction
from types import SimpleNamespace

from attributed import attribute, check, sums
from costtrace_lab.engines.schedules import WALL_OFFSET_NS, header, started
from costtrace_tensorrt_llm.contract.check import tier_of
from costtrace_tensorrt_llm.contract.hook_list import HOOKS
from costtrace_tensorrt_llm.hooks import install
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side import batches, executor, members, metering, native
from costtrace_tensorrt_llm.rank_side import stats as statistics
from costtrace_tensorrt_llm.rank_side.gputime import EventPool
from costtrace_tensorrt_llm.rank_side.metering import StepMeter
from costtrace_tensorrt_llm.rank_side.translate import Translator
from costtrace_tensorrt_llm.server_side.contexts import Contexts
from double.columns import executor_class
from double.cuda import FakeGpu, Host
from double.loops import run

from costtrace.attribution.engine import Policy
from costtrace.capture import recorder as recording
from costtrace.capture.recorder import Recorder
from costtrace.core.events import EngineReady, EngineStopped, Heartbeat, Step

STARTUP_NS = 3_000_000
BEAT_NS = 40_000_000
LOOPS = {
    "plain": {"loop": "plain"},
    "overlap": {"loop": "overlap"},
    "pipeline": {"loop": "pipeline", "stages": 2, "stage": 1},
}
"""Loops of an executor that samples."""
STEPS = [hook for hook in HOOKS if hook.owner == "PyExecutor" and hook.tier != "life"]


def hooked_class(column):
    """The double with the signatures of a column, with the real hooks on it."""
    cls = executor_class(column)
    process.status.installed.clear()
    process.status.lost.clear()
    install(STEPS, SimpleNamespace(PyExecutor=cls))
    assert not process.status.lost, process.status.lost
    assert tier_of([*process.status.installed, "request"], "")[0] == "T1"
    return cls


class Rank:
    """One rank of the double, its recorder and its translator; no threads: the writer takes its turn with a fetch."""

    def __init__(self, monkeypatch, plans, *, column="main", host=None, contexts=None, tier="T1", **options):
        self.host = host or Host()
        for module in (members, metering, statistics):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic_ns=lambda: self.host.now_ns))
        monkeypatch.setattr(recording, "monotonic_ns", lambda: self.host.now_ns)
        self.gpu = FakeGpu(self.host)
        self.executor = hooked_class(column)(self.gpu, plans, **options)
        stages, stage = options.get("stages", 1), options.get("stage", 0)
        self.stages = stages
        self.recorder = Recorder()
        samples = stage == stages - 1
        known = contexts or Contexts()
        self.meter = {
            "T1": lambda: StepMeter(self.recorder, EventPool(self.gpu.event), known, samples=samples),
            "T1-native": lambda: native.UpstreamMeter(self.recorder, known),
            "T2": lambda: statistics.StatsMeter(self.recorder, known),
        }[tier]()
        steps, stats = (None, self.meter) if tier == "T2" else (self.meter, None)
        self.executor.__dict__[executor.MARK] = SimpleNamespace(steps=steps, stats=stats)
        rank = self.executor.global_rank
        self.engine_id = f"tensorrt-llm-{rank}"
        self.translator = Translator("m", stage=stage, scatter=stages > 1, rank=rank)
        self.started_ns = self.host.now_ns - STARTUP_NS
        self.ready_ns = self.host.now_ns
        self.events = [
            header(self.engine_id, self.started_ns),
            started((f"GPU-{rank}",), self.started_ns),
            EngineReady(self.ready_ns),
        ]
        self._beat_ns = self.host.now_ns
        fetch = self.executor.fetch

        def fetch_and_write():
            self.write()
            fetch()

        self.executor.fetch = fetch_and_write

    def write(self):
        """What the writer thread does, in the order in which the pump does it."""
        now, flying, done = self.host.now_ns, self.recorder.in_flight_since_ns(), self.recorder.done_index
        self.events += self.translator.translate(self.recorder.drain())
        if now - self._beat_ns >= BEAT_NS:
            self._beat_ns = now
            self.events.append(Heartbeat(now, now + WALL_OFFSET_NS, flying, done))

    def serve(self):
        run(self.executor, self.stages)
        return self.end()

    def end(self):
        self.gpu.wait()
        if hasattr(self.meter, "finish"):
            self.meter.finish()
        self.write()
        self.ended_ns = self.host.now_ns
        self.events.append(EngineStopped(self.ended_ns))
        return self

    # -- what has to come out

    def owned(self):
        """(ns, members) of every batch, from the fake GPU's own book."""
        reached = self.ready_ns
        for busy in self.gpu.busy:
            yield max(0, busy.end_ns - max(reached, busy.start_ns)), busy.members
            reached = max(reached, busy.end_ns)

    def truth(self):
        """By kind, from the fake GPU's book alone."""
        wall = self.ended_ns - self.started_ns
        billed = sum(ns for ns, ids in self.owned() if ids)
        overhead = STARTUP_NS + sum(ns for ns, ids in self.owned() if not ids)
        return {"request": billed, "idle": wall - billed - overhead, "overhead": overhead, "unobserved": 0}

    def shares(self):
        """ns by request, every batch split evenly among those in it."""
        shares = defaultdict(Fraction)
        for ns, ids in self.owned():
            for member in ids:
                shares[str(member)] += Fraction(ns, len(ids))
        return shares


def bill(*ranks, method="tokens"):
    """Rows of the ranks' journals, checked for everything that always holds."""
    lives = {rank.engine_id: rank.events for rank in ranks}
    rows, engines = attribute(lives, policy=Policy(method=method, head_fee="sequence"))
    check(rows, engines)
    return rows


def assert_books_balance(rank, method="tokens"):
    """Billed, idle and overhead are the fake GPU's; and the device's wall time is all of it, to the nanosecond."""
    rows = bill(rank, method=method)
    assert sums(rows) == rank.truth()
    assert sum(sums(rows).values()) == rank.ended_ns - rank.started_ns
    assert rank.gpu.synchronised == 0
    return rows


def assert_wall_time(rank, rows):
    """Whatever a tier knows: all kinds together are the wall time, and nobody made the host wait."""
    assert sum(sums(rows).values()) == rank.ended_ns - rank.started_ns
    assert rank.gpu.synchronised == 0


def assert_everybody_pays_for_his_batches(rank):
    """Each request's bill is its part of exactly the batches that the fake GPU saw it in."""
    rows = bill(rank, method="equal")
    paid = defaultdict(int)
    by_slot = {event.slot: event for event in rank.events if hasattr(event, "sequence_id")}
    for record in rows.records:
        paid[record.request_key] += record.gpu_ns
    expected = defaultdict(Fraction)
    keys = {event.sequence_id: event.request_key for event in by_slot.values()}
    for name, share in rank.shares().items():
        expected[keys[name]] += share
    assert paid.keys() == expected.keys()
    slack = 2 + len(rank.gpu.busy) // 100  # whole ns, and the rest that the last of a window carries
    assert {k: (paid[k], float(v)) for k, v in expected.items() if abs(paid[k] - v) > slack} == {}


def assert_closed_after_the_last_batch(rank):
    """The journal ends each sequence at a step that none of its batches comes after, and its record after that."""
    last = {}
    for index, ids in enumerate(rank.executor.batches):
        last |= dict.fromkeys(ids, index)
    names = {event.slot: int(event.sequence_id) for event in rank.events if hasattr(event, "sequence_id")}
    ends = {names[event.slot]: event.last_step for event in rank.events if hasattr(event, "last_step")}
    assert {name: ends.get(name, -1) for name, index in last.items() if ends.get(name, -1) < index} == {}


def steps(events):
    return [event for event in events if isinstance(event, Step)]


__all__ = ["Rank", "batches", "bill"]
