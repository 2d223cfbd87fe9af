"""From granted time to rows: what requests owe, when they close, what a window adds up to.

One `EngineAttribution` an engine. It is fed what its `EnergyQueue` yields, in order, and leaves rows in `out`. All its
state is in its fields: an agent that was killed goes on from its last transaction as if nothing had happened, and the
same journal always gives the same rows (docs/method/rules.md sections 2 to 6).
"""

import msgspec

from costtrace.attribution.energy.counter_windows import DeviceMeter
from costtrace.attribution.energy.model import Spending
from costtrace.attribution.energy.waiting import Waiting
from costtrace.attribution.rows.request_part import UNOBSERVED, RequestPart, record_id
from costtrace.attribution.rows.window import BillingWindow
from costtrace.attribution.shares.accounts import Account, Accounts
from costtrace.attribution.shares.prefix_tree import PrefixTree
from costtrace.attribution.shares.virtual_time import Rounder
from costtrace.attribution.steps.cost_model import Coefficients
from costtrace.attribution.steps.engine_fit import first_fit, fit_row
from costtrace.attribution.steps.fit import StepFit
from costtrace.attribution.steps.step_work import StepWork
from costtrace.attribution.time.grants import Grant
from costtrace.attribution.time.segments import Segment
from costtrace.core.attention_reach import reach_of
from costtrace.core.events import (
    Delivered,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    PrefixPath,
    SequenceAdded,
    SequenceFinished,
    Snapshot,
    Step,
)
from costtrace.core.rows import FitRow, Rows
from costtrace.core.wall_time import wall_offset

FOREVER = 1 << 62
MOST_WAITING = 10_000
"""Requests that may wait for their window's end (policy `tree`): about 10 MB of the agent's memory and state. With
more, what they share is settled at once."""


class Policy(msgspec.Struct, frozen=True):
    """Choices of docs/method/rules.md that are the operator's."""

    method: str = "auto"
    """A rung of the ladder, or ``auto``: the best by measured fit."""
    head_fee: str = "request"
    prefix_sharing: str = "payer-of-miss"
    """Who pays for computing a prompt's beginning that others find in the prefix cache: who missed, or (``tree``)
    everybody who used it in the same window."""
    linger_ns: int = 300_000_000
    """How long after its last sequence a request may still bring another (n, several prompts, beams)."""


class EngineAttribution(msgspec.Struct):
    """Attributes one engine's time."""

    engine_id: str
    policy: Policy
    wall_offset_ns: int
    started: EngineStarted | None = None
    coefficients: Coefficients | None = None
    """Set from outside (tests, evaluation); None: those of `fit`."""
    fit: StepFit | None = None
    accounts: Accounts = msgspec.field(default_factory=Accounts)
    rounders: list[Rounder] = msgspec.field(default_factory=lambda: [Rounder(), Rounder(), Rounder()])
    """By meter."""
    parts: dict[str, RequestPart] = {}
    """Open parts by request key, which is longer where several tenants use one."""
    slots: dict[int, str] = {}
    """Request key of each slot whose part is open."""
    lingering: list[str] = []
    """Request keys of parts without an open sequence, which may still bring another (`Policy.linger_ns`)."""
    waiting: list[RequestPart] = []
    """Parts that are over and share a prefix: what they owe is known at the window's end (policy `tree`)."""
    finished: list[int] = []
    """Slots that have finished and may still be in a step in flight."""
    window: BillingWindow = msgspec.field(default_factory=BillingWindow)
    done_index: int = -1
    now_ns: int = 0
    energy_source: str = "none"
    energy_scope: str = ""
    energy_simulated: bool = False
    ended_ns: int = 0
    end_reason: str = ""
    out: Rows = msgspec.field(default_factory=lambda: Rows([], [], []))

    def feed(self, entry: Waiting, meters: dict[str, DeviceMeter], devices: tuple[str, ...]) -> None:
        """Take the next grant or event. *meters*: the devices whose energy is measured; *devices*: the engine's."""
        item = entry.item
        at_ns: int = item.end_ns if isinstance(item, Grant) else getattr(item, "at_ns", 0)
        self.now_ns = max(self.now_ns, at_ns)
        match item:
            case Grant():
                self._grant(item, entry, [meters.get(key) for key in devices] if meters else [])
            case SequenceAdded():
                self._added(item)
            case SequenceFinished():
                self._finished(item)
            case Delivered():
                if (part := self.parts.get(self.slots.get(item.slot, ""))) is not None:
                    part.delivered[item.slot] = (item.reason, item.output_tokens)
            case Heartbeat():
                self.wall_offset_ns = wall_offset(self.wall_offset_ns, item)
                self._done(item.done_index)
            case PrefixPath():
                self._path(item)
            case EngineStarted():
                self._begin(item)
            case Snapshot():
                self._resync(item, entry.contexts or {})
            case EngineStopped():
                self._stopped(item, entry.contexts or {})
            case _:
                pass
        while self.lingering and self.now_ns - self.parts[self.lingering[0]].empty_since_ns >= self.policy.linger_ns:
            self._close_part(self.lingering.pop(0))

    def _begin(self, started: EngineStarted) -> None:
        """Set up accounts and step model. The policies of this moment hold for the engine's life."""
        self.started = started
        self.accounts.set_head_fee(self.policy.head_fee)
        self.accounts.set_reach(reach_of(started.shape))
        self.accounts.tree = PrefixTree() if self.policy.prefix_sharing == "tree" else None
        self.fit = None if started.estimate else first_fit(started)

    def take_rows(self) -> Rows:
        """Rows since the last call."""
        rows, self.out = self.out, Rows([], [], [])
        return rows

    def fit_row(self) -> FitRow | None:
        """What the step model has learned; None before the engine has started, or if its steps are estimates."""
        if self.fit is None:
            return None
        return fit_row(self.engine_id, self.fit, self.accounts.method or self._model()[1])

    # -- time ---------------------------------------------------------------------------------------------------

    def _grant(self, grant: Grant, entry: Waiting, meters: list[DeviceMeter | None]) -> None:
        if grant.window_ns != self.window.window_ns:
            self._close_window()
            self.window = BillingWindow(grant.window_ns, grant.start_ns, grant.start_ns)
        self.window.end_ns = grant.end_ns
        if grant.shared:
            self.window.shared.update(grant.shared)
        segment, energy = grant.segment, entry.energy(grant.device_ns)
        self.window.sensors = []
        if meters or self.energy_source != "none":
            self.window.sensors = [None if meter is None else meter.sensor for meter in meters]
            self._label([meter for meter in meters if meter is not None])
        if segment.kind != "busy":
            self.window.add(segment.kind, segment.reason, grant.device_ns, energy)
        elif segment.step is not None and entry.work is not None:
            amounts = [sum(grant.device_ns), sum(energy.uj), sum(energy.energy_unknown_ns)]
            model = (entry.spends[1], grant.device_steps) if entry.spends else None
            served = self._step(segment, segment.step, entry.work, amounts, model, last=grant.last)
            self.window.add("request" if served else "overhead", "nobody in the step", grant.device_ns, energy)

    def _label(self, meters: list[DeviceMeter]) -> None:
        """Note how the window's energy is obtained: all sources and scopes, where devices differ."""
        for name in ("source", "scope"):
            values = {getattr(meter, name) for meter in meters} - {"", "none"}
            setattr(self, f"energy_{name}", "+".join(sorted(values)) or ("none" if name == "source" else ""))
        self.energy_simulated = any(meter.simulated for meter in meters)

    def _step(
        self, segment: Segment, step: Step, work: StepWork, amounts: list[int], energy: Spending | None, *, last: bool
    ) -> bool:
        """Charge a step, or a piece of one; False if there is nobody to charge."""
        if self.accounts.work is None:
            if step.enters or step.items:
                for slot in (*(slot for slot, _ in step.enters), *(slot for slot, _, _ in step.items)):
                    if slot not in self.accounts.open:
                        self._added(_unknown(slot, self.now_ns))
            self.accounts.begin(step, work)
        coefficients, method = self._model()
        served = self.accounts.charge(amounts, coefficients, method, energy)
        if last:
            if self.fit is not None and self.accounts.features is not None:
                steady = not (step.leaves or step.enters or step.items)
                took_ns = segment.end_ns - segment.start_ns
                self.fit.observe(self.accounts.features, took_ns, steady=steady, index=step.index, method=method)
            self.accounts.end(step)
            self._done(step.index)
        return served

    def _model(self) -> tuple[Coefficients | None, str]:
        """Coefficients and method by which the next step is shared."""
        asked = self.policy.method
        if self.coefficients is not None or self.fit is None:
            estimate = self.started.estimate if self.started is not None else ""
            return self.coefficients, estimate or ("roofline" if asked == "auto" else asked)
        method = self.fit.method(asked)
        return self.fit.coefficients(method), method

    def _done(self, index: int) -> None:
        """All steps up to *index* are done: close the finished sequences that none in flight can hold."""
        self.done_index = max(self.done_index, index)
        if not self.finished:
            return
        for slot in self.finished[:]:
            end = self.accounts.open[slot].finished
            if end is not None and end.last_step <= self.done_index:
                self.finished.remove(slot)
                self._close(slot)

    # -- requests -----------------------------------------------------------------------------------------------

    def _added(self, added: SequenceAdded) -> None:
        key, of_key = added.request_key, added
        # A client may have chosen the key: what another tenant uses under the same one is a request of its own.
        while (part := self.parts.get(key)) is not None and part.first.tenant != added.tenant:
            key = f"{key}@{added.tenant}"
            of_key = msgspec.structs.replace(added, request_key=key)
        if part is None:
            part = self.parts[key] = RequestPart(record_id(self.engine_id, key, added.slot), added)
        elif part.empty_since_ns:
            part.empty_since_ns = 0
            self.lingering.remove(key)
        part.add(added)
        self.slots[added.slot] = key
        self.accounts.add(of_key)

    def _path(self, path: PrefixPath) -> None:
        """Note what a sequence found in the prefix cache, and what others may find of it."""
        part = self.parts.get(self.slots.get(path.slot, ""))
        if self.accounts.tree is not None and part is not None and self.accounts.tree.path(path):
            part.shares_prefix = True

    def _finished(self, end: SequenceFinished) -> None:
        account = self.accounts.open.get(end.slot)
        if account is None or account.finished is not None:
            return
        self.accounts.finish(end.slot, end)
        self.finished.append(end.slot)
        self._done(self.done_index)

    def _close(self, slot: int) -> None:
        key = self.slots[slot]
        part = self.parts[key]
        part.close(slot, self.accounts.close(slot))
        part.method = self.accounts.method
        if not part.open_slots:
            part.empty_since_ns = max(1, self.now_ns)
            self.lingering.append(key)

    def _close_part(self, key: str) -> None:
        part = self.parts.pop(key)
        for closed in part.closed:
            self.slots.pop(closed.slot, None)
        if part.shares_prefix:
            self.waiting.append(part)
            if len(self.waiting) >= MOST_WAITING:
                self._settle()
                self._true_up()
            return
        if not self.parts:
            self._take_carry()  # nobody is left whose later steps would take it up
        self._book(part)

    def _book(self, part: RequestPart) -> None:
        """Post what a part that is over still owes, and write its record."""
        part.settle_waste()
        self._post(part)
        role = self.started.role if self.started else "aggregated"
        simulated = self.started.simulated if self.started else False
        self.out.records.append(part.record(self.engine_id, role, self.wall_offset_ns, simulated=simulated))

    def _take_carry(self) -> None:
        """Move what could not be divided among participants to the rounders: the next posting has it."""
        for rounder, carry in zip(self.rounders, self.accounts.take_carry(), strict=True):
            rounder.pool += carry

    def _post(self, part: RequestPart) -> None:
        part.energy_source, part.energy_simulated = self.energy_source, self.energy_simulated
        if (posting := part.post(self.rounders, self.engine_id, self.window.window_ns)) is not None:
            self.out.postings.append(posting)

    # -- windows and ends ---------------------------------------------------------------------------------------

    def _close_window(self) -> None:
        """Settle all accounts and write the window's rows. Its postings then add up to what its devices gave."""
        window = self.window
        if window.window_ns == -1:  # none is open; times before 1970 are multiples of its length
            return
        self._settle()
        self._take_carry()
        self._true_up()
        for part in self.parts.values():
            self._post(part)
        self.out.postings.extend(window.postings(self.engine_id, self.started.model if self.started else ""))
        devices = self.started.devices if self.started else ()
        self.out.meter.extend(window.meter_rows(self.engine_id, devices, self.energy_source, self.energy_scope))
        self.window = BillingWindow()

    def _settle(self) -> None:
        """Move what each open sequence owes to its part."""
        for slot, account in self.accounts.open.items():
            self.accounts.settle(account)
            part = self.parts[self.slots[slot]]
            part.take(slot, account)
            part.method = self.accounts.method

    def _true_up(self) -> None:
        """Share what prompts of this window had in common, then book the parts that waited for it."""
        if (tree := self.accounts.tree) is None:
            return
        if not self.parts:
            self._take_carry()
        parts = {slot: part for part in (*self.waiting, *self.parts.values()) for slot in part.slots()}
        for slot, amounts in tree.true_up({slot: part.record_id for slot, part in parts.items()}).items():
            parts[slot].transfer(slot, amounts)
        for part in self.waiting:
            self._book(part)
        self.waiting = []

    def _stopped(self, event: EngineStopped, contexts: dict[int, int]) -> None:
        reason = "interrupted" if event.reason == "interrupted" else "abort"
        for slot, account in list(self.accounts.open.items()):
            if account.finished is None:
                self._finished(SequenceFinished(slot, event.at_ns, -1, reason, _generated(account, contexts)))
        self._done(FOREVER)
        while self.lingering:
            self._close_part(self.lingering.pop(0))
        self._close_window()
        self.ended_ns, self.end_reason = event.at_ns, event.reason

    def _resync(self, snapshot: Snapshot, contexts: dict[int, int]) -> None:
        """After a damaged stretch: what the snapshot says is open is open, and nothing else."""
        still_open = {added.slot for added in snapshot.open}
        for slot, account in list(self.accounts.open.items()):
            if slot not in still_open and account.finished is None:
                self._finished(SequenceFinished(slot, snapshot.at_ns, -1, "lost", _generated(account, contexts)))
        self._done(snapshot.next_index - 1)
        for added in snapshot.open:
            if added.slot not in self.accounts.open:
                self._added(added)
        cohort = dict(snapshot.cohort)
        for slot, account in self.accounts.open.items():
            self.accounts.leave(account)
            if slot in cohort:
                self.accounts.resume(account, cohort[slot], snapshot.at_ns)


def _generated(account: Account, contexts: dict[int, int]) -> int:
    """Output tokens by what was computed, where the engine ended before it could report them."""
    context, prompt = contexts.get(account.added.slot, 0), account.added.prompt_tokens
    return context - prompt + 1 if account.cached_tokens >= 0 and context >= prompt else 0


def _unknown(slot: int, at_ns: int) -> SequenceAdded:
    """Stand-in for the arrival of a sequence that was lost."""
    name = f"lost-{slot}"
    return SequenceAdded(slot, at_ns, name, "", name, "", 0, "", "", UNOBSERVED)
