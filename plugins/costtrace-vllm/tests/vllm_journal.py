"""Reads the journals that the plugin wrote, and checks them against the server's answers and vLLM's own log.

None of it uses the translator: steps are expanded in the most naive way (`vllm_batches.Reader`).
"""

import re
import time
from collections.abc import Iterable
from pathlib import Path

from costtrace_lab.demo.traffic import Sent
from vllm_batches import Reader

from costtrace.core.events import (
    SENSORS,
    Delivered,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Lost,
    SequenceAdded,
    SequenceFinished,
    Step,
)
from costtrace.journal.reader import JournalReader

_ITERATION = re.compile(
    r"Iteration\((\d+)\): (\d+) context requests, (\d+) context tokens, (\d+) generation requests, "
    r"(\d+) generation tokens, .*"
)


class EngineJournal:
    """One engine's journal, read to its present end."""

    def __init__(self, directory: Path) -> None:
        self.reader = JournalReader(directory)
        self.steps = Reader()
        self.events: list[object] = []
        self.started: EngineStarted | None = None
        self.added: dict[int, SequenceAdded] = {}
        self.finished: dict[int, SequenceFinished] = {}
        self.delivered: dict[int, Delivered] = {}
        self.timed: list[Step] = []
        self.read()

    def read(self) -> None:
        while events := self.reader.read().events:
            self.events += events
            self.steps.feed(events)
            for event in events:
                match event:
                    case EngineStarted():
                        self.started = event
                    case SequenceAdded():
                        self.added[event.slot] = event
                    case SequenceFinished():
                        assert event.slot not in self.finished, "a sequence ends once"
                        self.finished[event.slot] = event
                    case Delivered():
                        assert event.slot not in self.delivered, "delivered tokens are noted once"
                        self.delivered[event.slot] = event
                    case Step():
                        self.timed.append(event)

    def all_of(self, kind: type) -> list[object]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def idle(self) -> bool:
        """Nothing is open."""
        return self.added.keys() == self.finished.keys()

    def totals(self) -> list[tuple[int, int]]:
        """(sequences, tokens) of each step, in order."""
        return [(len(seen), sum(tokens for tokens, _ in seen.values())) for _, seen in sorted(self.steps.steps.items())]


def read_all(home: Path) -> list[EngineJournal]:
    """The engines' journals (the agent's sensors write one of their own)."""
    paths = [path for path in sorted((home / "journal").iterdir()) if path.is_dir()]
    return [EngineJournal(path) for path in paths if not path.name.startswith(f"{SENSORS}-")]


def read_when_idle(home: Path, bound_s: float = 20.0) -> list[EngineJournal]:
    """All journals of *home*, once nothing is open in any of them."""
    deadline = time.monotonic() + bound_s
    while True:
        journals = read_all(home)
        if journals and all(journal.idle for journal in journals):
            return journals
        assert time.monotonic() < deadline, "a sequence is still open"
        time.sleep(0.2)


def iterations(log: Path) -> list[tuple[int, int]]:
    """(sequences, tokens) of each iteration, as vLLM logs it with ``--enable-logging-iteration-details``."""
    rows = []
    for line in log.read_text(errors="replace").splitlines():
        match = _ITERATION.search(line)
        if match and "(dummy)" not in line:
            _, context, context_tokens, generation, generation_tokens = map(int, match.groups())
            rows.append((context + generation, context_tokens + generation_tokens))
    return rows


def check_life(journal: EngineJournal) -> None:
    """The events of the engine and its steps are in order, whatever the traffic was."""
    assert journal.started is not None
    (ready,) = journal.all_of(EngineReady)
    assert journal.started.started_ns < ready.at_ns
    assert journal.started.lost_hooks == ()
    assert journal.all_of(Lost) == []
    assert len(journal.all_of(EngineStopped)) <= 1
    done = ready.at_ns
    for step in journal.timed:
        assert step.scheduled_ns < step.done_ns
        assert step.done_ns > done
        done = step.done_ns
    for index, seen in journal.steps.steps.items():
        for name in seen:
            slot = next(s for s, event in journal.added.items() if event.sequence_id == name)
            ended = journal.finished.get(slot)
            assert ended is None or index <= ended.last_step, "no sequence is in a step after its last"


def check_work(journal: EngineJournal, *, drafts: bool = False) -> None:
    """Each sequence computed what its prompt and its output need: no gap, and at most two late tokens."""
    work: dict[str, list[tuple[int, int]]] = {}
    for _, seen in sorted(journal.steps.steps.items()):
        for name, share in seen.items():
            work.setdefault(name, []).append(share)
    for slot, added in journal.added.items():
        finished = journal.finished[slot]
        shares = work.get(added.sequence_id, [])
        if finished.preemptions or drafts or not shares:
            continue
        expected = finished.cached_tokens
        for tokens, context in shares:
            assert context == expected, (added, shares)
            expected += tokens
        late = expected - (added.prompt_tokens + max(0, finished.output_tokens - 1))
        assert finished.reason == "abort" or 0 <= late <= 2, (added, finished, late)


def check_answers(journals: Iterable[EngineJournal], answers: Iterable[Sent]) -> None:
    """Every answered request is in the journals once, with the server's own tokens, its tenant, model and reasons."""
    journals = list(journals)
    for sent in answers:
        if sent.response_id is None:
            continue
        sequences = [(j, slot, a) for j in journals for slot, a in j.added.items() if a.request_id == sent.response_id]
        assert sequences, f"{sent.response_id} is in no journal"
        assert len({added.request_key for _, _, added in sequences}) == 1, "one request has one key"
        first = sequences[0][2]
        assert first.traceparent == (sent.traceparent or ""), sent
        if sent.tenant is not None:
            assert {(added.tenant, added.tenant_source) for _, _, added in sequences} == {(sent.tenant, "header")}
        assert {added.model for _, _, added in sequences} == {sent.model}, sent
        prompts = {added.prompt_key: added.prompt_tokens for _, _, added in sequences}
        assert sum(prompts.values()) == sent.prompt_tokens, sent
        ends = [_end(journal, slot) for journal, slot, _ in sequences]
        if sent.aborted:
            assert all(reason == "abort" for reason, _ in ends)
            assert sum(tokens for _, tokens in ends) >= (sent.completion_tokens or 0)
            continue
        assert sum(tokens for _, tokens in ends) == (sent.completion_tokens or 0), (sent, ends)
        if sent.finish_reasons:
            assert sorted(reason for reason, _ in ends) == sorted(sent.finish_reasons), (sent, ends)


def _end(journal: EngineJournal, slot: int) -> tuple[str, int]:
    delivered = journal.delivered.get(slot)
    if delivered is not None:
        return delivered.reason, delivered.output_tokens
    finished = journal.finished[slot]
    return finished.reason, finished.output_tokens
