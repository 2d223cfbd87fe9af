"""A scheduler as engines have it: continuous batching, chunked prefill, prefix cache, preemption, drafts.

Decodes go first, then prompts under way in chunks while the token budget lasts, then those that wait. Where the KV
cache is full the newest sequence is preempted and computes again. One step is in flight at a time. A steady decode step
costs the same whatever the batch's size.

What it does not have: asynchronous scheduling, several engines, priorities. Cached prefixes are kept by least recent
use, beside the running sequences and not at their expense.
"""

import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

import msgspec

from costtrace.capture.prefix_numbers import PrefixNumbers
from costtrace.core.cohort import CohortEncoder
from costtrace.core.errors import CosttraceError
from costtrace.core.events import AnyEvent, EngineReady, EngineStopped, Heartbeat, SequenceAdded, SequenceFinished
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace_lab.simulator.step_times import Load, StepTimes
from costtrace_lab.simulator.workload import MOONCAKE_BLOCK, Arrival

HEARTBEAT_NS = 500 * NS_PER_MS


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator sets of an engine."""

    max_sequences: int = 256
    token_budget: int = 2_048
    """Tokens of a step, at most."""
    kv_tokens: int = 500_000
    """Tokens that fit into the KV cache."""
    prefix_cache: bool = True
    drafts: int = 0
    """Tokens that a speculative decoder proposes for each decode."""
    acceptance: float = 0.7
    """Chance that a draft is accepted, given that the one before it was."""
    seed: int = 1

    def check(self) -> None:
        """Raises: CosttraceError."""
        if min(self.max_sequences, self.token_budget, self.kv_tokens) < 1 or self.drafts < 0:
            raise CosttraceError("sequences, token budget and KV tokens must be at least 1, drafts at least 0")
        if self.token_budget < self.max_sequences * (1 + self.drafts):
            raise CosttraceError(
                f"a token budget of {self.token_budget} does not hold {self.max_sequences} decodes of "
                f"{1 + self.drafts} tokens: raise it, or lower the number of sequences"
            )


class Running(msgspec.Struct):
    """A sequence, as the scheduler knows it."""

    slot: int
    arrival: Arrival
    computed: int = 0
    """KV tokens; in the cohort, when it entered."""
    output: int = 0
    """Tokens; in the cohort, when it entered."""
    last_step: int = -1
    """In the cohort, the step that computes its last token; -1: it is not in it."""
    preemptions: int = 0


class Simulator:
    """One engine's life on a workload. Iterate `events` once; the same input always gives the same events."""

    def __init__(
        self,
        workload: Sequence[Arrival],
        times: StepTimes,
        config: SchedulerConfig,
        *,
        model: str = "simulated",
        prefix_paths: bool = False,
    ) -> None:
        """*prefix_paths*: say who found which blocks, as `prefix_sharing: tree` wants it."""
        config.check()
        longest = max((a.prompt_tokens + a.output_tokens for a in workload), default=0)
        if longest > config.kv_tokens:
            raise CosttraceError(
                f"a request of the workload needs {longest:,} KV tokens, the cache has {config.kv_tokens:,}: raise it"
            )
        blocks = sorted({arrival.block_tokens for arrival in workload if arrival.prefix})
        if len(blocks) > 1:
            raise CosttraceError(
                f"the workload names blocks of {' and of '.join(map(str, blocks))} tokens: one is needed"
            )
        self._block_tokens = blocks[0] if blocks else MOONCAKE_BLOCK
        self._arrivals = deque(sorted(workload, key=lambda arrival: arrival.at_s))
        self._times, self._config, self._model = times, config, model
        self._random = random.Random(config.seed)  # noqa: S311 - reproducible, not secret
        self._waiting: deque[Running] = deque()
        self._running: dict[int, Running] = {}
        """By slot, in the order of admission."""
        self._others: dict[int, Running] = {}
        """Running, and not in the cohort: prompts under way, and decodes with drafts."""
        self._cohort: CohortEncoder[int] = CohortEncoder()
        self._kv = 0
        self._ends: list[tuple[int, int]] = []
        """(last step, slot) of the cohort's members; those that were preempted stay in it."""
        self._enters: list[Running] = []
        """Those who are in the cohort from the next step on."""
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._prefixes = PrefixNumbers(self._block_tokens) if prefix_paths else None
        self._admitted: list[tuple[Running, int]] = []
        """In this step for the first time, and how much the cache had of them."""
        self._slots = self._index = 0
        self.steps = 0
        self.done = 0
        """Requests that have ended: progress."""

    def events(self, start_ns: int, wall_offset_ns: int) -> Iterator[AnyEvent]:
        """From its readiness at *start_ns* (monotonic) to its end, when all is served."""
        now_ns = beat_ns = start_ns
        yield EngineReady(start_ns)
        while self._arrivals or self._running or self._waiting:
            if not (self._running or self._waiting):
                now_ns = max(now_ns, start_ns + round(self._arrivals[0].at_s * NS_PER_S))
            yield from self._arrive(start_ns, now_ns)
            self._make_room()
            items = self._compose()
            self._enter()
            load = self._load(items)
            took_ns = max(1, round(self._times.seconds(load, (now_ns - start_ns) / NS_PER_S) * NS_PER_S))
            yield from self._paths(now_ns)
            self._cohort.items += [(one.slot, tokens, one.computed) for one, tokens in items]
            yield self._cohort.close(self._index, now_ns, now_ns + took_ns)
            now_ns += took_ns
            yield from self._advance(items, now_ns)
            self._index += 1
            if now_ns - beat_ns >= HEARTBEAT_NS:
                beat_ns = now_ns
                yield Heartbeat(now_ns, now_ns + wall_offset_ns, 0, self._index - 1)
        self.steps = self._index
        yield Heartbeat(now_ns, now_ns + wall_offset_ns, 0, self._index - 1)
        yield EngineStopped(now_ns)

    # -- requests -----------------------------------------------------------------------------------------------

    def _arrive(self, start_ns: int, now_ns: int) -> Iterator[AnyEvent]:
        while self._arrivals and start_ns + round(self._arrivals[0].at_s * NS_PER_S) <= now_ns:
            arrival = self._arrivals.popleft()
            self._slots += 1
            slot, at_ns = self._slots, start_ns + round(arrival.at_s * NS_PER_S)
            self._waiting.append(Running(slot, arrival))
            key, tokens = f"sim-{slot}", arrival.prompt_tokens
            yield SequenceAdded(slot, at_ns, key, key, key, key, tokens, self._model, arrival.tenant, "simulated")

    def _finish(self, one: Running, now_ns: int) -> AnyEvent:
        del self._running[one.slot]
        self._others.pop(one.slot, None)
        self._kv -= one.computed
        self.done += 1
        return SequenceFinished(one.slot, now_ns, self._index, "stop", one.output, preemptions=one.preemptions)

    def _make_room(self) -> None:
        """Preempt the newest until every decode has room for what it is going to write."""
        while (
            len(self._running) > 1
            and self._kv + len(self._running) * (1 + self._config.drafts) > self._config.kv_tokens
        ):
            slot, one = self._running.popitem()
            self._leave(one)
            self._others.pop(slot, None)
            if one in self._enters:
                self._enters.remove(one)
            self._kv -= one.computed
            one.computed = 0
            one.preemptions += 1
            self._waiting.appendleft(one)

    def _leave(self, one: Running) -> None:
        context = self._cohort.leave(one.slot)
        if context >= 0:
            one.output += context - one.computed
            one.computed = context
            one.last_step = -1

    def _enter(self) -> None:
        for one in self._enters:
            self._cohort.enter(one.slot, one.slot, one.computed)
            one.last_step = self._index + one.arrival.output_tokens - one.output - 1
            heapq.heappush(self._ends, (one.last_step, one.slot))
        self._enters.clear()

    # -- steps --------------------------------------------------------------------------------------------------

    def _compose(self) -> list[tuple[Running, int]]:
        """Who takes part besides the cohort, with how many tokens."""
        config = self._config
        decoding = len(self._cohort.members) + len(self._enters)
        budget = config.token_budget - decoding
        room = config.kv_tokens - self._kv - decoding
        items: list[tuple[Running, int]] = []
        for one in sorted(self._others.values(), key=lambda one: not decodes(one)):
            wanted = 1 + config.drafts if decodes(one) else left(one)
            if (tokens := min(wanted, budget, room)) > 0:
                items.append((one, tokens))
                budget, room = budget - tokens, room - tokens
        while self._waiting and len(self._running) < config.max_sequences and budget > 0:
            one = self._waiting[0]
            cached = self._cached(one)
            if left(one) > room:
                break
            self._waiting.popleft()
            one.computed = cached
            self._kv += cached
            if self._prefixes is not None and not one.preemptions:
                self._admitted.append((one, cached))
            self._running[one.slot] = self._others[one.slot] = one
            tokens = min(left(one), budget)
            items.append((one, tokens))
            budget, room = budget - tokens, room - tokens - cached
        return items

    def _load(self, items: list[tuple[Running, int]]) -> Load:
        drafted = [(one, tokens) for one, tokens in items if decodes(one)]
        count = len(self._cohort.members)
        return Load(
            count + len(drafted),
            count + sum(tokens for _, tokens in drafted),
            self._cohort.predicted() + sum(one.computed for one, _ in drafted),
            [(tokens, one.computed) for one, tokens in items if not decodes(one)],
        )

    def _advance(self, items: list[tuple[Running, int]], now_ns: int) -> Iterator[AnyEvent]:
        """The state of all sequences after the step."""
        self._kv += len(self._cohort.members)
        while self._ends and self._ends[0][0] <= self._index:
            last, slot = heapq.heappop(self._ends)
            one = self._running.get(slot)
            if one is None or one.last_step != last:
                continue  # it was preempted meanwhile
            self._leave(one)
            yield self._finish(one, now_ns)
        for one, tokens in items:
            new = self._accepted(tokens) if decodes(one) else tokens
            grown = new if decodes(one) else int(tokens == left(one))
            one.computed += new
            self._kv += new
            one.output += grown
            if grown and one.output >= one.arrival.output_tokens:
                one.output = one.arrival.output_tokens
                self._keep(one)
                yield self._finish(one, now_ns)
            elif grown and not self._config.drafts:
                self._keep(one)
                del self._others[one.slot]
                self._enters.append(one)

    def _accepted(self, tokens: int) -> int:
        """Of a decode with drafts, how many tokens stay."""
        stay = 1
        while stay < tokens and self._random.random() < self._config.acceptance:
            stay += 1
        return stay

    def _cached(self, one: Running) -> int:
        """Tokens of its prompt that the prefix cache has."""
        blocks = 0
        for name in one.arrival.prefix if self._config.prefix_cache else ():
            if name not in self._cache:
                break
            self._cache.move_to_end(name)
            blocks += 1
        # The last token is always computed: its logits are wanted.
        known = max(blocks * self._block_tokens, one.arrival.cached_tokens)
        return min(known, one.arrival.prompt_tokens - 1)

    def _paths(self, now_ns: int) -> Iterator[AnyEvent]:
        """Who found what, of those who are in the step for the first time."""
        for one, cached in self._admitted:
            assert self._prefixes is not None
            whole = one.arrival.prompt_tokens // self._block_tokens
            path = self._prefixes.path(one.slot, now_ns, one.arrival.prefix[:whole], cached)
            if path is not None:
                yield path
        self._admitted.clear()

    def _keep(self, one: Running) -> None:
        for name in one.arrival.prefix if self._config.prefix_cache else ():
            self._cache[name] = None
        while len(self._cache) * self._block_tokens > self._config.kv_tokens:
            self._cache.popitem(last=False)


def decodes(one: Running) -> bool:
    """All that is known of it is computed, but for the newest token."""
    return one.output > 0 and one.computed >= one.arrival.prompt_tokens + one.output - 1


def left(one: Running) -> int:
    """Tokens to compute before it decodes: its prompt, and after a preemption its output so far."""
    return one.arrival.prompt_tokens + one.output - one.computed
