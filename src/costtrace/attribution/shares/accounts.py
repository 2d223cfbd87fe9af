"""What each open sequence owes, of each meter: the accounts of one engine, kept in virtual time.

Membership comes as `StepWork`, prices from the step model. A step costs a handful of additions, whatever the batch's
size.
"""

import msgspec

from costtrace.attribution.energy.model import Spending, energy_prices
from costtrace.attribution.shares.prefix_tree import PrefixTree
from costtrace.attribution.shares.tenant_fees import TenantFees
from costtrace.attribution.shares.virtual_time import HEAD, Cohort, CostCounter, ItemUse, Mark
from costtrace.attribution.steps.cost_model import Coefficients, Features, expert_units, more_beyond_knee, step_prices
from costtrace.attribution.steps.step_work import Item, StepWork
from costtrace.core.attention_reach import AttentionReach
from costtrace.core.cohort import ReachCrossings
from costtrace.core.events import SequenceAdded, SequenceFinished, Step

TIME, ENERGY, GAP = range(3)
"""The meters: device-nanoseconds, microjoules, and device-nanoseconds whose energy is not known."""


def nothing() -> list[int]:
    """Nothing of any meter."""
    return [0, 0, 0]


def add(to: list[int], more: list[int]) -> None:
    """Add *more* to *to*, meter by meter."""
    for meter, value in enumerate(more):
        to[meter] += value


class Account(msgspec.Struct):
    """An open sequence, and what it owes so far (fixed-point parts of a unit, by meter)."""

    added: SequenceAdded
    context: int = 0
    """KV tokens when it entered the cohort."""
    in_cohort: bool = False
    capped: bool = False
    """In the cohort, its context has reached the window of layers that have one."""
    entered_step: int = 0
    counted_step: int = 0
    marks: list[Mark] = []
    fee_marks: list[int] = []
    """By meter, where its tenant's fees stood (policy `tenant`)."""
    batch_mark: int = 0
    weight: int = HEAD
    running: bool = False
    """It has been in a step and has not finished: it counts in its request's head fee."""
    finished: SequenceFinished | None = None
    cached_tokens: int = -1
    """Context at its first step: the prefix that was found in the cache (-1: it has not been in a step)."""
    prefill: list[int] = msgspec.field(default_factory=nothing)
    decode: list[int] = msgspec.field(default_factory=nothing)
    wasted: list[int] = msgspec.field(default_factory=nothing)
    """Owed since it was last taken onto its part's account."""
    head: int = 0
    """Of the time it has owed since it began, head fees: a view, in fixed point."""
    steps: int = 0
    batch_sum: int = 0
    """Over its steps, the sequences in them: for the mean batch."""
    computed_tokens: int = 0
    newest_context: int = 0
    """KV tokens after its newest step outside the cohort."""
    scheduled_ns: int = 0
    decoding_ns: int = 0
    """When the last step of its prompt ended; 0: not yet."""


class Accounts(msgspec.Struct):
    """Who owes what. Used by `attribution`, which knows what a request is."""

    head_fee: str = "request"
    """Who pays a head fee: `request` (its sequences together), `sequence`, `tenant`. Set before the first step."""
    fees: TenantFees = msgspec.field(default_factory=TenantFees)
    """Policy `tenant`."""
    cohort: Cohort = msgspec.field(default_factory=Cohort)
    tree: PrefixTree | None = None
    """Policy `tree` of prefix sharing: who found what others computed. None: who misses pays."""
    crossings: ReachCrossings | None = msgspec.field(default=None, name="passing")
    """Who reaches the window when; None: no layer has one."""
    clocks: list[CostCounter] = msgspec.field(default_factory=lambda: [CostCounter(), CostCounter(), CostCounter()])
    """By meter."""
    batch_sum: int = 0
    """Sum over all steps of the sequences in them: mean batch sizes are differences of it."""
    open: dict[int, Account] = {}
    siblings: dict[str, list[int]] = {}
    """Running slots of a request (policy `request`)."""
    work: StepWork | None = None
    """What the step that is being charged had to do."""
    method: str = ""
    """Method by which the newest step was charged."""
    features: Features | None = None
    """Of the step that is being charged; None: nobody is in it."""

    def set_head_fee(self, policy: str) -> None:
        """Before the first step: who pays head fees. It holds for the engine's life, whatever is configured later."""
        self.head_fee = policy
        self.cohort.unit = HEAD * HEAD if policy == "tenant" else HEAD

    def set_reach(self, reach: AttentionReach | None) -> None:
        """Before the first step: how far the model's layers look back."""
        if reach is not None:
            self.cohort.reach, self.crossings = reach, ReachCrossings(reach)

    def add(self, added: SequenceAdded) -> None:
        """A sequence is known."""
        self.open[added.slot] = Account(added)

    def begin(self, step: Step, work: StepWork) -> None:
        """A step is about to be charged. All its slots are open."""
        self.work = work
        if not (work.leaves or work.enters or step.items):  # a steady step: most are
            return
        for slot in work.leaves:
            if (account := self.open.get(slot)) is not None:
                self.leave(account)
        for slot, context in work.enters:
            self._run(slot, step.scheduled_ns)
            self.enter(self.open[slot], context)
        for slot, _, context in step.items:
            account = self.open[slot]
            self.leave(account)
            if account.cached_tokens < 0:
                account.cached_tokens = context
            self._run(slot, step.scheduled_ns)
        if self.tree is not None:
            for slot, tokens, context in step.items:
                self.tree.begin(slot, tokens, context)

    def charge(
        self, amounts: list[int], coefficients: Coefficients | None, method: str, energy: Spending | None
    ) -> bool:
        """Charge the step that has begun, or a piece of it; False if nobody is in it.

        *amounts*: how much of each meter. *energy*: how the engine's devices spend it, and over how many device-steps;
        None: as time.
        """
        work = self.work
        if work is None or not (self.cohort.count or work.items):
            return False
        gpu_ns, energy_uj, energy_unknown_ns = amounts
        usages = self._usages(work, coefficients, method) if work.items else []
        features = self.features = self._features(work, usages, coefficients)
        if not gpu_ns and not energy_uj:
            return True
        prices = step_prices(coefficients, method, features)
        self.method = prices.method
        time, energy_clock, unknown = self.clocks
        # As long as no energy is known, the clock of what is not known goes with that of time: one calculation.
        same = energy_unknown_ns == gpu_ns and unknown == time
        if gpu_ns:
            parts = time.charge(gpu_ns, self.cohort, usages, prices)
            if same:
                unknown.follow(time)
            if parts:
                self._owe(work, TIME, parts)
                for usage, item in zip(usages, work.items, strict=True):
                    self.open[item.slot].head += int(time.fee * usage.weight / HEAD)
                if same:
                    self._owe(work, GAP, parts)
        if energy_uj:
            own = prices
            if energy is not None:
                coefficients_uj, device_steps = energy
                own = energy_prices(coefficients_uj, prices, features, gpu_ns / (device_steps or 1.0))
            self._owe(work, ENERGY, energy_clock.charge(energy_uj, self.cohort, usages, own))
        if energy_unknown_ns and not same:
            self._owe(work, GAP, unknown.charge(energy_unknown_ns, self.cohort, usages, prices))
        return True

    def _owe(self, work: StepWork, meter: int, parts: list[int]) -> None:
        for item, owed in zip(work.items, parts, strict=True):
            account = self.open[item.slot]
            (account.prefill if item.is_prefill else account.decode)[meter] += owed
            if self.tree is not None and item.is_prefill and account.finished is None:
                self.tree.charged(item.slot, meter, owed)
            if account.finished is not None:
                account.wasted[meter] += owed
            elif item.again:
                account.wasted[meter] += owed * item.again // item.tokens

    def end(self, step: Step) -> None:
        """The step has been charged in full."""
        work = self.work
        assert work is not None
        size = self.cohort.count + len(work.items)
        self.batch_sum += size
        for slot, tokens, context in step.items:
            account = self.open[slot]
            account.steps += 1
            account.batch_sum += size
            account.computed_tokens += tokens
            account.newest_context = context + tokens
        for slot in work.prompts_done:
            self.open[slot].decoding_ns = step.done_ns
        self.work = self.features = None
        self._advance()

    def _advance(self) -> None:
        for slot in self.cohort.advance(self.crossings):
            account = self.open[slot]
            self.settle(account)  # up to here it read more with each step
            account.capped = True

    def enter(self, account: Account, context: int) -> None:
        """From the next step on it decodes one token a step."""
        if account.in_cohort:
            self.leave(account)
        account.cached_tokens = max(0, account.cached_tokens)
        account.in_cohort = True
        account.context = context
        account.entered_step = account.counted_step = self.cohort.step
        account.marks = [clock.mark() for clock in self.clocks]
        account.batch_mark = self.batch_sum
        if self.crossings is not None:
            account.capped = context >= self.crossings.reach.window
        if self.head_fee == "tenant":
            account.fee_marks = self.fees.paid(account.added.tenant, self.clocks)
            self.fees.weigh(account.added.tenant, account.weight, self.cohort, self.clocks)
        else:
            self.cohort.weight += account.weight
        self.cohort.enter(account.added.slot, context, self.crossings)

    def resume(self, account: Account, context: int, at_ns: int) -> None:
        """After a damaged stretch it is found decoding, since *at_ns* at the latest."""
        self._run(account.added.slot, at_ns)
        self.enter(account, context)

    def leave(self, account: Account) -> None:
        """From the next step on it does not; nothing happens if it did not."""
        if not account.in_cohort:
            return
        self.settle(account)
        account.in_cohort = False
        slot, entered = account.added.slot, account.entered_step
        account.newest_context = self.cohort.leave(slot, account.context, entered, self.crossings)
        if self.head_fee == "tenant":
            self.fees.weigh(account.added.tenant, -account.weight, self.cohort, self.clocks)
        else:
            self.cohort.weight -= account.weight

    def settle(self, account: Account) -> None:
        """Move what a member of the cohort owes since its mark onto its own account."""
        if not account.in_cohort:
            return
        step0, context0, reach = account.entered_step, account.context, self.cohort.reach
        growth = (1, 0) if reach is None else reach.growth(capped=account.capped)
        fees = self._fees(account)
        account.head += fees[TIME]
        for meter, clock in enumerate(self.clocks):
            mark = account.marks[meter]
            if clock.a == mark.a and clock.b == mark.b and clock.h == mark.h:
                continue  # nothing of this meter has been charged since
            owed = clock.owed(mark, step0, context0, 0, growth) + fees[meter]
            account.marks[meter] = clock.mark()
            account.decode[meter] += owed
            if account.finished is not None:
                account.wasted[meter] += owed
        steps = self.cohort.step - account.counted_step
        account.steps += steps
        account.computed_tokens += steps
        account.batch_sum += self.batch_sum - account.batch_mark
        account.counted_step = self.cohort.step
        account.batch_mark = self.batch_sum

    def _fees(self, account: Account) -> list[int]:
        """Head fees of a member of the cohort since it was last settled, by meter."""
        weight = account.weight
        if self.head_fee != "tenant":
            return [weight * (clock.h - mark.h) for clock, mark in zip(self.clocks, account.marks, strict=True)]
        marks, account.fee_marks = account.fee_marks, self.fees.paid(account.added.tenant, self.clocks)
        return [weight * (paid - mark) for paid, mark in zip(account.fee_marks, marks, strict=True)]

    def finish(self, slot: int, event: SequenceFinished) -> None:
        """What a sequence owes from here on comes after its end."""
        account = self.open[slot]
        self.settle(account)
        account.finished = event
        if account.running:
            account.running = False
            self._weigh(account.added.request_key, gone=slot)

    def close(self, slot: int) -> Account:
        """No step can hold the sequence any more: take it out, with all that it owes."""
        account = self.open.pop(slot)
        self.leave(account)
        return account

    def take_carry(self) -> list[int]:
        """What could not be divided evenly so far, by meter; it is the caller's now."""
        carry = [clock.carry for clock in self.clocks]
        for clock in self.clocks:
            clock.carry = 0
        return carry

    def _run(self, slot: int, scheduled_ns: int) -> None:
        account = self.open[slot]
        account.scheduled_ns = account.scheduled_ns or scheduled_ns
        if not account.running and account.finished is None:
            account.running = True
            self._weigh(account.added.request_key, new=slot)

    def _weigh(self, key: str, *, new: int = -1, gone: int = -1) -> None:
        """Set the head-fee weights of a request's running sequences: 1 altogether."""
        if self.head_fee == "sequence":
            return
        before = self.siblings.get(key, [])
        running = [slot for slot in before if slot != gone]
        if new >= 0:
            running.append(new)
        if self.head_fee == "tenant" and bool(running) != bool(before):
            tenant = self.open[new if new >= 0 else gone].added.tenant
            self.fees.run(tenant, 1 if running else -1, self.cohort, self.clocks)
        if not running:
            self.siblings.pop(key, None)
            return
        self.siblings[key] = running
        weight = HEAD // len(running)
        for slot in running:
            account = self.open[slot]
            if weight != account.weight:
                self.settle(account)
                change, account.weight = weight - account.weight, weight
                if not account.in_cohort:
                    continue
                if self.head_fee == "tenant":
                    self.fees.weigh(account.added.tenant, change, self.cohort, self.clocks)
                else:
                    self.cohort.weight += change

    def _usages(self, work: StepWork, coefficients: Coefficients | None, method: str) -> list[ItemUse]:
        miss, tokens = 0.0, 0
        if coefficients is not None and coefficients.expert_part:
            miss, tokens = coefficients.expert_miss, work.tokens
        beyond: dict[int, float] = {}
        if coefficients is not None and method == "roofline":
            beyond = more_beyond_knee(coefficients, [item.tokens for item in work.items], work.cohort_count)
        return [self._usage(item, miss, tokens, beyond.get(item.tokens, 0.0)) for item in work.items]

    def _usage(self, item: Item, miss: float, tokens: int, beyond: float) -> ItemUse:
        account = self.open[item.slot]
        weight: float = account.weight
        if self.head_fee == "tenant":
            weight = account.weight * self.fees.unit(account.added.tenant) / HEAD
        expert = 1.0
        if miss and item.tokens > 1:
            expert = expert_units(miss, item.tokens, tokens) / expert_units(miss, 1, tokens)
        use = (item.tokens, item.context, item.attention, weight, expert, item.encoder, int(item.is_prefill), beyond)
        return ItemUse(*use)

    def _features(self, work: StepWork, usages: list[ItemUse], coefficients: Coefficients | None) -> Features:
        heads = self.cohort.weight / self.cohort.unit
        if not usages:  # a steady step: the cohort is all there is
            experts = float(work.cohort_count) if coefficients is not None and coefficients.expert_part else 0.0
            return Features(heads, work.cohort_count, work.cohort_count, work.cohort_context, 0, 0, experts)
        heads += sum(usage.weight for usage in usages) / HEAD
        experts = 0.0
        if coefficients is not None and coefficients.expert_part:
            experts = work.cohort_count + sum(usage.expert for usage in usages)
        totals = (work.sequences, work.tokens, work.context, work.attention, work.encoder)
        return Features(heads, *totals, experts, work.prompts, sum(usage.beyond for usage in usages))
