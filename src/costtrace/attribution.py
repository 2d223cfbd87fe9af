"""From granted time to rows: what requests owe, when they close, what a window adds up to.

One `EngineAttribution` an engine. It is fed what `sharing` yields, in order, and leaves rows in `out`. All that it
knows is in its fields: an agent that was killed goes on from its last transaction as if nothing had happened, and the
same journal always gives the same rows (docs/method.md sections 2 to 6).
"""

from typing import NamedTuple

import msgspec

from costtrace.accounts import Account, Accounts
from costtrace.device_peaks import peak_of
from costtrace.energy_model import Spending
from costtrace.energy_windows import DeviceEnergy
from costtrace.events import (
    Delivered,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    SequenceAdded,
    SequenceFinished,
    Snapshot,
    Step,
)
from costtrace.fit_row import fit_row
from costtrace.open_requests import UNOBSERVED, Part, is_known, record_id
from costtrace.sliding import span_of
from costtrace.staging import Staged
from costtrace.step_fit import StepFit
from costtrace.step_model import GENERIC_SHAPE, Coefficients, prior
from costtrace.timeline import Grant, Segment, wall_offset
from costtrace.usage import KINDS, FitRow, MeterRow, Posting, UsageRecord
from costtrace.virtual_time import Rounder
from costtrace.window import Window
from costtrace.work import Work

FOREVER = 1 << 62


class Policy(msgspec.Struct, frozen=True):
    """Choices of docs/method.md that are the operator's."""

    method: str = "auto"
    """A rung of the ladder, or ``auto``: the best by measured fit."""
    head_fee: str = "request"
    linger_ns: int = 300_000_000
    """How long after its last sequence a request may still bring another (n, several prompts, beams)."""


class Rows(NamedTuple):
    """Rows in the order in which they belong into the ledger."""

    postings: list[Posting]
    meter: list[MeterRow]
    records: list[UsageRecord]


class EngineAttribution(msgspec.Struct):
    """Attributes one engine's time."""

    engine_id: str
    policy: Policy
    wall_offset_ns: int
    started: EngineStarted | None = None
    coefficients: Coefficients | None = None
    """Given from outside; None: what `fit` says."""
    fit: StepFit | None = None
    accounts: Accounts = msgspec.field(default_factory=Accounts)
    rounders: list[Rounder] = msgspec.field(default_factory=lambda: [Rounder(), Rounder(), Rounder()])
    """By meter."""
    parts: dict[str, Part] = {}
    """Open parts by request key."""
    slots: dict[int, str] = {}
    """Request key of each slot whose part is open."""
    lingering: list[str] = []
    finished: list[int] = []
    """Slots that have finished and may still be in a step in flight."""
    window: Window = msgspec.field(default_factory=Window)
    done_index: int = -1
    now_ns: int = 0
    energy_source: str = "none"
    energy_scope: str = ""
    energy_simulated: bool = False
    ended_ns: int = 0
    end_reason: str = ""
    out: Rows = msgspec.field(default_factory=lambda: Rows([], [], []))

    def feed(self, staged: Staged, meters: dict[str, DeviceEnergy], devices: tuple[str, ...]) -> None:
        """Take the next grant or event. *meters*: the devices whose energy is measured; *devices*: the engine's."""
        item = staged.item
        at_ns: int = item.end_ns if isinstance(item, Grant) else getattr(item, "at_ns", 0)
        self.now_ns = max(self.now_ns, at_ns)
        match item:
            case Grant():
                self._grant(item, staged, [meters.get(key) for key in devices] if meters else [])
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
            case EngineStarted():
                self.started = item
                self.accounts.set_head_fee(self.policy.head_fee)
                self.accounts.set_span(span_of(item.shape))
                self.fit = None if item.estimate else first_fit(item)
            case Snapshot():
                self._resync(item, staged.contexts or {})
            case EngineStopped():
                self._stopped(item, staged.contexts or {})
            case _:
                pass
        while self.lingering and self.now_ns - self.parts[self.lingering[0]].empty_since_ns >= self.policy.linger_ns:
            self._close_part(self.lingering.pop(0))

    def take_rows(self) -> Rows:
        """Rows since the last call."""
        rows, self.out = self.out, Rows([], [], [])
        return rows

    def fit_row(self) -> FitRow | None:
        """What the step model has learned; None before the engine has said what it is, or if it has no real steps."""
        if self.fit is None:
            return None
        return fit_row(self.engine_id, self.fit, self.accounts.method or self._model()[1])

    # -- time ---------------------------------------------------------------------------------------------------

    def _grant(self, grant: Grant, staged: Staged, meters: list[DeviceEnergy | None]) -> None:
        if grant.window_ns != self.window.window_ns:
            self._close_window()
            self.window = Window(grant.window_ns, grant.start_ns, grant.start_ns)
        self.window.end_ns = grant.end_ns
        if grant.shared:
            self.window.shared.update(grant.shared)
        segment, energy = grant.segment, staged.energy(grant.device_ns)
        measured = [meter for meter in meters if meter is not None]
        self.window.sensors = [None if meter is None else meter.sensor for meter in meters] if meters else []
        if measured or self.energy_source != "none":
            self._label(measured)
        if segment.kind != "busy":
            self.window.add(segment.kind, segment.reason, grant.device_ns, energy)
        elif segment.step is not None and staged.work is not None:
            served = staged.uj is None and grant.last and self._steady(grant, segment.step, staged.work)
            if not served:
                amounts = [sum(grant.device_ns), sum(energy.uj), sum(energy.gap_ns)]
                model = (staged.spends[1], grant.device_steps) if staged.spends else None
                served = self._step(segment, segment.step, staged.work, amounts, model, last=grant.last)
            self.window.add("request" if served else "overhead", "nobody in the step", grant.device_ns, energy)

    def _label(self, meters: list[DeviceEnergy]) -> None:
        """How the energy of this window is obtained: all devices' ways, if they differ."""
        for name in ("source", "scope"):
            known = {getattr(meter, name) for meter in meters} - {"", "none"}
            setattr(self, f"energy_{name}", "+".join(sorted(known)) or ("none" if name == "source" else ""))
        self.energy_simulated = any(meter.simulated for meter in meters)

    def _steady(self, grant: Grant, step: Step, work: Work) -> bool:
        """The short way for most steps of a busy engine (`Accounts.steady`); False: it has to go the long one."""
        if work.items or work.leaves or work.enters:
            return False
        coefficients, method = self._model()
        features = self.accounts.steady(work, sum(grant.device_ns), coefficients, method)
        if features is None:
            return False
        if self.fit is not None:
            segment = grant.segment
            took_ns = segment.end_ns - segment.start_ns
            self.fit.observe(features, took_ns, steady=True, index=step.index, method=method)
        self._done(step.index)
        return True

    def _step(
        self, segment: Segment, step: Step, work: Work, amounts: list[int], energy: Spending | None, *, last: bool
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
        """Coefficients and method by which the step that comes is shared."""
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
        key = added.request_key
        part = self.parts.get(key)
        if part is None:
            part = self.parts[key] = Part(record_id(self.engine_id, key, added.slot), added)
        elif part.empty_since_ns:
            part.empty_since_ns = 0
            self.lingering.remove(key)
        part.open_slots.append(added.slot)
        # The first one stands: each step of a beam search brings new sequences, their prompts hold what was generated.
        part.prompts.setdefault(added.prompt_key, added.prompt_tokens)
        self.slots[added.slot] = key
        self.accounts.add(added)

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
        part.settle_waste()
        if not self.parts:
            # Nobody is left to carry what could not be divided: it is whole now, with what was rounded off.
            self._take_carry()
        self._post(part)
        role = self.started.role if self.started else "aggregated"
        simulated = self.started.simulated if self.started else False
        self.out.records.append(part.record(self.engine_id, role, self.wall_offset_ns, simulated=simulated))

    def _take_carry(self) -> None:
        for rounder, carry in zip(self.rounders, self.accounts.take_carry(), strict=True):
            rounder.pool += carry

    def _post(self, part: Part) -> None:
        part.energy_source, part.energy_simulated = self.energy_source, self.energy_simulated
        if (posting := part.post(self.rounders, self.engine_id, self.window.window_ns)) is not None:
            self.out.postings.append(posting)

    # -- windows and ends ---------------------------------------------------------------------------------------

    def _close_window(self) -> None:
        """Settle everybody, write the rows of the window. Its postings then add up to what its devices gave."""
        window = self.window
        if window.window_ns < 0:
            return
        for slot, account in self.accounts.open.items():
            self.accounts.settle(account)
            part = self.parts[self.slots[slot]]
            part.take(slot, account)
            part.method = self.accounts.method
        self._take_carry()
        for part in self.parts.values():
            self._post(part)
        for kind, by_reason in window.rows.items():
            self.out.postings.extend(
                self._row(kind, reason, *amounts) for reason, amounts in by_reason.items() if any(amounts)
            )
        self.out.meter.extend(self._meter_rows())
        self.window = Window()

    def _row(self, kind: str, reason: str, gpu_ns: int, energy_uj: int, gap_ns: int) -> Posting:
        return Posting(
            window_ns=self.window.window_ns,
            engine_id=self.engine_id,
            kind=next(known for known in KINDS if known == kind),
            reason=reason,
            model=self.started.model if self.started else "",
            gpu_ns=gpu_ns,
            energy_uj=energy_uj if is_known(gpu_ns, energy_uj, gap_ns) else None,
            gap_ns=gap_ns,
        )

    def _meter_rows(self) -> list[MeterRow]:
        devices = self.started.devices if self.started else ()
        window = self.window
        by_kind = {kind: window.device_ns.get(kind, [0] * len(devices)) for kind in KINDS}
        if window.end_ns == window.start_ns:  # a step without length, and then the wall clock was set
            return []
        return [
            MeterRow(
                window_ns=window.window_ns,
                engine_id=self.engine_id,
                device=device.uuid,
                start_ns=window.start_ns,
                end_ns=window.end_ns,
                request_ns=by_kind["request"][i],
                idle_ns=by_kind["idle"][i],
                overhead_ns=by_kind["overhead"][i],
                unobserved_ns=by_kind["unobserved"][i],
                shared=i in window.shared,
                energy_uj=self._known_uj(i, sum(by_kind[kind][i] for kind in KINDS)),
                gap_ns=window.device_gap_ns[i],
                energy_source=self.energy_source,
                energy_scope=self.energy_scope,
                sensor=window.sensors[i] if window.sensors else None,
            )
            for i, device in enumerate(devices)
        ]

    def _known_uj(self, device: int, device_ns: int) -> int | None:
        uj, gap_ns = self.window.device_uj[device], self.window.device_gap_ns[device]
        return uj if is_known(device_ns, uj, gap_ns) else None

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
        """After a damaged stretch: believe the snapshot."""
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


def first_fit(started: EngineStarted) -> StepFit:
    """Where learning begins: the prior of this model on these devices, as far as both are known."""
    first = started.devices[0] if started.devices else None
    name, kind = (first.name, first.kind) if first is not None else ("", "gpu")
    peak, devices = peak_of(name, kind), max(1, len(started.devices))
    own = prior(started.shape, kind, devices, peak)
    start = own or prior(GENERIC_SHAPE, kind, devices, peak)
    assert start is not None
    return StepFit(start, known=own is not None, device=peak.name, generic=peak.generic)


def _generated(account: Account, contexts: dict[int, int]) -> int:
    """Output tokens by what was computed: where the engine did not live to say it."""
    context, prompt = contexts.get(account.added.slot, 0), account.added.prompt_tokens
    return context - prompt + 1 if account.cached_tokens >= 0 and context >= prompt else 0


def _unknown(slot: int, at_ns: int) -> SequenceAdded:
    """A sequence whose arrival was lost."""
    name = f"lost-{slot}"
    return SequenceAdded(slot, at_ns, name, "", name, "", 0, "", "", UNOBSERVED)
