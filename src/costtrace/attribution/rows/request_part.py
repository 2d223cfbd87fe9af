"""A request on one engine (a part): what it owes and has posted, and what its closed sequences leave behind."""

import hashlib

import msgspec

from costtrace.attribution.shares.accounts import Account, add, nothing
from costtrace.attribution.shares.virtual_time import SHIFT, Rounder
from costtrace.core.events import COUNTED_PROMPT, COUNTED_REQUEST, HANDS_OVER, SequenceAdded
from costtrace.core.rows import Posting, UsageRecord, is_known

ABORTED = frozenset({"abort", "interrupted", "error"})
"""Finish reasons after which all that a sequence used counts as wasted."""
_GOES_ON = frozenset({"length", "interrupted", "lost"})
"""Finish reasons after which another engine may give the answer."""
UNOBSERVED = "unobserved"
"""Tenant source of a sequence whose arrival was lost."""
LATER_STAGE = "stage"
"""Role of a part on a later pipeline stage: it has time of its own, and its tokens are counted on the first stage."""
UNOBSERVED_TENANT = "__unobserved__"
"""Tenant of such a sequence on the rows: it is on nobody's bill."""


class Closed(msgspec.Struct, array_like=True):
    """What is kept of a closed sequence until its part closes."""

    slot: int
    reason: str
    output_tokens: int


class Paid(msgspec.Struct, array_like=True):
    """Fixed-point amounts by meter that a sequence has owed since it began: an abort makes all of them waste."""

    owed: list[int] = msgspec.field(default_factory=nothing)
    wasted: list[int] = msgspec.field(default_factory=nothing)


class Phases(msgspec.Struct, array_like=True):
    """Whole units of one meter by phase; `wasted` is a part of the same units."""

    prefill: int = 0
    decode: int = 0
    wasted: int = 0


class RequestPart(msgspec.Struct):
    """A request on this engine."""

    record_id: str
    first: SequenceAdded
    open_slots: list[int] = []
    closed: list[Closed] = []
    paid: dict[int, Paid] = {}
    prompts: dict[str, int] = {}
    delivered: dict[int, tuple[str, int]] = {}
    """By slot: (finish reason, output tokens) as the front end delivered them to the client."""
    empty_since_ns: int = 0
    """When its last sequence closed (0: one is open)."""
    prefill: list[int] = msgspec.field(default_factory=nothing)
    decode: list[int] = msgspec.field(default_factory=nothing)
    """Fixed-point amounts by meter that have not been posted yet."""
    owed: list[int] = msgspec.field(default_factory=nothing)
    wasted: list[int] = msgspec.field(default_factory=nothing)
    """Fixed-point amounts by meter since it began."""
    posted: list[Phases] = msgspec.field(default_factory=lambda: [Phases(), Phases(), Phases()])
    """Whole units by meter."""
    energy_source: str = ""
    energy_simulated: bool = False
    scheduled_ns: int = 0
    decoding_ns: int = 0
    ended_ns: int = 0
    cached: dict[str, tuple[int, int]] = {}
    """By prompt: its first sequence's slot, and the tokens that this one found in the cache (siblings find its own)."""
    computed_tokens: int = 0
    shares_prefix: bool = False
    """Whether it has computed what others may find, or found what another computed (policy `tree`)."""
    prefix: int = 0
    """Device time that such sharing has put on its account, in fixed point; negative: taken off it."""
    uncounted: list[str] = []
    """Prompts that are counted with another part."""
    further: bool = False
    """Whether its request is counted with another part."""
    head: int = 0
    """Head fees of its closed sequences, in fixed point."""
    steps: int = 0
    batch_sum: int = 0
    preemptions: int = 0
    method: str = ""

    def add(self, added: SequenceAdded) -> None:
        """Take in a sequence of the request."""
        self.further = bool(added.elsewhere & COUNTED_REQUEST) and (self.further or not self.prompts)
        if not added.elsewhere & COUNTED_PROMPT:
            self.uncounted = [prompt for prompt in self.uncounted if prompt != added.prompt_key]
        elif added.prompt_key not in self.prompts:
            self.uncounted.append(added.prompt_key)
        self.open_slots.append(added.slot)
        # Only the first length counts: each step of a beam search adds sequences whose prompts hold generated tokens.
        self.prompts.setdefault(added.prompt_key, added.prompt_tokens)

    def tenant(self) -> str:
        """Who pays."""
        return UNOBSERVED_TENANT if self.first.tenant_source == UNOBSERVED else self.first.tenant

    def take(self, slot: int, account: Account) -> None:
        """Move what a sequence's account owes to the part."""
        paid = self.paid.setdefault(slot, Paid())
        for owed, unposted in ((account.prefill, self.prefill), (account.decode, self.decode)):
            add(unposted, owed)
            add(self.owed, owed)
            add(paid.owed, owed)
        add(self.wasted, account.wasted)
        add(paid.wasted, account.wasted)
        account.prefill, account.decode, account.wasted = nothing(), nothing(), nothing()

    def slots(self) -> list[int]:
        """Slots of its sequences, open and closed."""
        return [*self.open_slots, *(closed.slot for closed in self.closed)]

    def transfer(self, slot: int, amounts: list[int]) -> None:
        """Put a share of a shared prefix on *slot*'s account, as prefill; negative amounts take it off."""
        add(self.prefill, amounts)
        add(self.owed, amounts)
        add(self.paid.setdefault(slot, Paid()).owed, amounts)
        self.prefix += amounts[0]

    def close(self, slot: int, account: Account) -> None:
        """Close a sequence: keep what the part's record needs of it."""
        self.take(slot, account)
        end = account.finished
        assert end is not None
        self.closed.append(Closed(slot, end.reason, end.output_tokens))
        self.open_slots.remove(slot)
        first, _ = self.cached.get(account.added.prompt_key, (slot, 0))
        if slot <= first:
            self.cached[account.added.prompt_key] = (slot, end.cached_tokens or max(0, account.cached_tokens))
        self.preemptions += end.preemptions
        self.steps += account.steps
        self.batch_sum += account.batch_sum
        self.computed_tokens += account.computed_tokens
        self.head += account.head
        self.ended_ns = max(self.ended_ns, end.at_ns)
        if account.scheduled_ns:
            self.scheduled_ns = min(self.scheduled_ns or account.scheduled_ns, account.scheduled_ns)
        if account.decoding_ns:
            self.decoding_ns = min(self.decoding_ns or account.decoding_ns, account.decoding_ns)

    def settle_waste(self) -> None:
        """Count as wasted all that aborted sequences used. The ends of all sequences must be known."""
        for closed in self.closed:
            reason, _ = self.delivered.get(closed.slot, (closed.reason, 0))
            if reason in ABORTED:
                paid = self.paid[closed.slot]
                add(self.wasted, [owed - wasted for owed, wasted in zip(paid.owed, paid.wasted, strict=True)])

    def post(self, rounders: list[Rounder], engine_id: str, window_ns: int) -> Posting | None:
        """A posting of what it owes since the last one, in whole units; None if that is nothing."""
        time, energy, unknown = (self._post(meter, rounder) for meter, rounder in enumerate(rounders))
        if not (time.prefill or time.decode or time.wasted or energy.prefill or energy.decode):
            return None
        gpu_ns, energy_uj, energy_unknown_ns = (phases.prefill + phases.decode for phases in (time, energy, unknown))
        known = is_known(gpu_ns, energy_uj, energy_unknown_ns)
        return Posting(
            window_ns=window_ns,
            engine_id=engine_id,
            kind="request",
            record_id=self.record_id,
            tenant=self.tenant(),
            model=self.first.model,
            gpu_ns=gpu_ns,
            prefill_ns=time.prefill,
            decode_ns=time.decode,
            wasted_ns=time.wasted,
            energy_uj=energy_uj if known else None,
            prefill_uj=energy.prefill if known else None,
            decode_uj=energy.decode if known else None,
            wasted_uj=energy.wasted if known else None,
            energy_unknown_ns=energy_unknown_ns,
            method=self.method,
        )

    def _post(self, meter: int, rounder: Rounder) -> Phases:
        """Whole units of one meter since the last posting."""
        prefill, decode = rounder.whole(self.prefill[meter]), rounder.whole(self.decode[meter])
        self.prefill[meter] = self.decode[meter] = 0
        posted = self.posted[meter]
        posted.prefill += prefill
        posted.decode += decode
        # Waste is a part of the same units, rounded by its sum so far. An abort makes time of earlier windows waste
        # too: it shows in the newest posting, whose waste may then exceed its time.
        whole = posted.prefill + posted.decode
        wasted = whole if self.wasted[meter] == self.owed[meter] else min(whole, self.wasted[meter] >> SHIFT)
        wasted, posted.wasted = wasted - posted.wasted, wasted
        return Phases(prefill, decode, wasted)

    def record(self, engine_id: str, role: str, wall_offset_ns: int, *, simulated: bool) -> UsageRecord:
        """The usage record of a part that has closed and posted everything."""
        first = self.first
        ends = [self.delivered.get(c.slot, (c.reason, c.output_tokens)) for c in self.closed]
        arrived_ns = first.arrived_ns or first.at_ns
        time, energy, _ = self.posted
        gpu_ns, energy_uj, energy_unknown_ns = (phases.prefill + phases.decode for phases in self.posted)
        known = is_known(gpu_ns, energy_uj, energy_unknown_ns)
        counts = first.role != LATER_STAGE
        input_tokens, output_tokens = sum(self.prompts.values()) * counts, sum(tokens for _, tokens in ends) * counts
        cached = {prompt: self.cached.get(prompt, (0, 0))[1] for prompt in self.prompts}
        cached_tokens = sum(cached.values()) * counts
        # A prefill that is to be continued has given one token for each sequence, which the answer has too.
        handed = (
            first.elsewhere & HANDS_OVER and {reason for reason, _ in ends} <= _GOES_ON and output_tokens <= len(ends)
        )
        uncounted = [prompt for prompt in self.uncounted if counts]

        def wall(monotonic_ns: int) -> int:
            return monotonic_ns + wall_offset_ns if monotonic_ns else 0

        return UsageRecord(
            record_id=self.record_id,
            request_key=first.request_key,
            request_id=first.request_id,
            engine_id=engine_id,
            part=2 if handed or self.further or not counts else 1,
            attempt=first.attempt,
            role=first.role or role,
            tenant=self.tenant(),
            tenant_source=first.tenant_source,
            user=first.user,
            labels=first.labels,
            model=first.model,
            operation=first.operation,
            traceparent=first.traceparent,
            arrived_ns=wall(arrived_ns),
            scheduled_ns=wall(self.scheduled_ns),
            decode_ns_at=wall(self.decoding_ns),
            ended_ns=wall(max(self.ended_ns, arrived_ns)),
            gpu_ns=gpu_ns,
            prefill_ns=time.prefill,
            decode_ns=time.decode,
            wasted_ns=time.wasted,
            energy_uj=energy_uj if known else None,
            prefill_uj=energy.prefill if known else None,
            decode_uj=energy.decode if known else None,
            energy_unknown_ns=energy_unknown_ns,
            energy_source=self.energy_source if known else "none",
            input_tokens=input_tokens,
            cached_tokens=cached_tokens,
            output_tokens=output_tokens,
            computed_tokens=self.computed_tokens,
            sequences=len(self.closed),
            steps=self.steps,
            batch_milli=self.batch_sum * 1000 // self.steps if self.steps else 0,
            preemptions=self.preemptions,
            finish_reasons=tuple(reason for reason, _ in ends),
            method=self.method,
            simulated=simulated or self.energy_simulated,
            head_ns=min(gpu_ns, self.head >> SHIFT),
            prefix_ns=self.prefix >> SHIFT,
            counted_input=input_tokens - sum(self.prompts[name] for name in uncounted) if uncounted else None,
            counted_cached=cached_tokens - sum(cached[name] for name in uncounted) if uncounted else None,
            counted_output=0 if handed else None,
        )


def record_id(engine_id: str, request_key: str, first_slot: int) -> str:
    """Id of a part's usage record: the same whenever the same journal is read."""
    return hashlib.sha256(f"{engine_id}\0{request_key}\0{first_slot}".encode()).hexdigest()[:32]
