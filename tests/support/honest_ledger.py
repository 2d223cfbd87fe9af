"""Ledgers that are in balance by construction, written through the real `Ledger`: for the tests of the reading side."""

import random
from pathlib import Path
from typing import NamedTuple

from costtrace.core.events import Position
from costtrace.core.rows import EngineRow, MeterRow, Posting, UsageCost, UsageRecord
from costtrace.ledger.store import Charge, Ledger

WINDOW_NS = 10_000_000_000
WALL_NS = 1_790_000_000_000_000_000  # a window begins here
DAY_NS = 86_400_000_000_000
COSTLY = ("rate-costly", "book-1", "USD", "H100", "4000000001", "3600000000000", "150000001", "3600000000000", 0)
CHEAP = ("rate-cheap", "book-2", "USD", "H100", "2500000003", "3600000000000", "150000001", "3600000000000", 0)
WHOLE = ("rate-whole", "book-1", "EUR", "L40S", "790000007", "3600000000000", "", "", 1)


class Plan(NamedTuple):
    """One engine to write."""

    engine_id: str
    devices: tuple[str, ...]
    device_name: str
    rates: tuple[tuple, ...]  # by thirds of the engine's life; () where there is no price
    measured: bool
    first_window: int
    windows: int
    ended: bool = True
    share: int = 1  # the engine is given 1/share of its devices


PLANS = (
    Plan("engine-a", ("GPU-1", "GPU-2"), "NVIDIA H100", (COSTLY, COSTLY, CHEAP), True, 0, 9),
    Plan("engine-b", ("GPU-3",), "NVIDIA L40S", (WHOLE,), True, 2, 5),
    Plan("engine-c", ("GPU-4",), "NVIDIA B200", (), False, 0, 6),
    Plan("engine-d", ("GPU-5",), "NVIDIA L40S", (WHOLE,), False, 1, 6, share=2),
    Plan("engine-e", ("GPU-5",), "NVIDIA L40S", (WHOLE,), False, 1, 6, share=2),
    Plan("engine-f", ("GPU-1",), "NVIDIA H100", (COSTLY,), True, 9, 4, ended=False),
)
TENANTS = ("acme", "blue")


class Carry:
    """Money by cumulative rounding, as the agent does it."""

    def __init__(self):
        self.left = {}

    def charge(self, engine_id, rate, gpu_ns, energy_uj):
        if rate is None:
            return Charge()
        device = self._round((engine_id, rate[0], "ns"), gpu_ns * int(rate[4]), int(rate[5]))
        if rate[8]:
            return Charge(rate[0], device, 0)
        if energy_uj is None or not rate[6]:
            return Charge(rate[0], device, None)
        return Charge(rate[0], device, self._round((engine_id, rate[0], "uj"), energy_uj * int(rate[6]), int(rate[7])))

    def _round(self, key, exact, denominator):
        nano, self.left[key] = divmod(self.left.get(key, 0) + exact, denominator)
        return nano


class Writer:
    """Writes the plans, window by window."""

    def __init__(self, ledger, seed, requests_per_window):
        self.ledger = ledger
        self.random = random.Random(seed)
        self.requests_per_window = requests_per_window
        self.carry = Carry()
        self.records = 0

    def engine(self, plan):
        start_ns = 1_000_000_000_000 + plan.first_window * WINDOW_NS
        # Shared engines are cut at the same instants; the others begin and end inside a window.
        late = 0 if plan.share > 1 else 1_234_567_891
        life = [start_ns + late, *(start_ns + k * WINDOW_NS for k in range(1, plan.windows))]
        ends = [*life[1:], start_ns + plan.windows * WINDOW_NS - late]
        self.ledger.put_engine(
            EngineRow(
                engine_id=plan.engine_id,
                host="node",
                boot_id="boot",
                engine="simulator",
                version="1",
                model="m-large" if plan.share == 1 else "m-small",
                role="aggregated",
                dp_rank=0,
                devices=plan.devices,
                device_name=plan.device_name,
                device_kind="gpu",
                simulated=True,
                started_wall_ns=WALL_NS + life[0] - 1_000_000_000_000,
                started_ns=life[0],
                ended_ns=ends[-1] if plan.ended else 0,
                end_reason="shutdown" if plan.ended else "",
            )
        )
        self.ledger.put_position(plan.engine_id, Position(1, 100, 10), done=plan.ended)
        open_part = None
        for k, (begin, end) in enumerate(zip(life, ends, strict=True)):
            open_part = self.window(plan, k, begin, end, open_part)
        if open_part is not None and plan.ended:
            self.close(plan, open_part)

    def window(self, plan, k, begin, end, open_part):
        rate = plan.rates[k * len(plan.rates) // plan.windows] if plan.rates else None
        window_ns = WALL_NS + (plan.first_window + k) * WINDOW_NS
        given = (end - begin) // plan.share
        cuts = sorted(self.random.randrange(given) for _ in range(3))
        kinds = dict(
            zip(
                ("request", "idle", "overhead", "unobserved"),
                (b - a for a, b in zip((0, *cuts), (*cuts, given), strict=True)),
                strict=True,
            )
        )
        # Of a measured engine, some windows have lost their sensor in part, some altogether.
        measured = plan.measured and k % 4 != 2
        part = 1 if not measured else 4 if k % 4 == 1 else 0
        g = len(plan.devices)
        energies = [self.random.randrange(10**9) if measured else None for _ in plan.devices]
        energy = sum(energies) if measured else None
        open_part, gap = self.postings(plan, window_ns, kinds, energy, rate, open_part, part)
        self.ledger.put_meter(
            MeterRow(
                window_ns=window_ns,
                engine_id=plan.engine_id,
                device=device,
                start_ns=begin,
                end_ns=end,
                shared=plan.share > 1,
                energy_uj=energy,
                energy_source="nvml_counter" if energy is not None else "none",
                energy_unknown_ns=gap // g + (gap % g if device == plan.devices[0] else 0),
                **{f"{kind}_ns": ns for kind, ns in kinds.items()},
            )
            for device, energy in zip(plan.devices, energies, strict=True)
        )
        return open_part

    def postings(self, plan, window_ns, kinds, energy, rate, open_part, part_unknown):
        """Post a window; the energy of every *part_unknown*-th ns is unknown. Returns the open part and all the gap."""
        g, gap = len(plan.devices), 0
        parts = [open_part] if open_part else []
        parts += [self.part(plan, window_ns) for _ in range(self.requests_per_window)]
        times = self.split(kinds["request"] * g, 2 * len(parts))
        shares = self.split(energy, 2 * len(parts) + 3) if energy is not None else [None] * (2 * len(parts) + 3)
        for i, part in enumerate(parts):
            prefill, decode = times[2 * i : 2 * i + 2]
            prefill_uj, decode_uj = shares[2 * i : 2 * i + 2]
            gap += self.post(
                plan, part, rate, part_unknown,
                window_ns=window_ns, kind="request", record_id=part["record_id"], tenant=part["tenant"],
                model=part["model"], gpu_ns=prefill + decode, prefill_ns=prefill, decode_ns=decode,
                wasted_ns=decode // 7, energy_uj=None if prefill_uj is None else prefill_uj + decode_uj,
                prefill_uj=prefill_uj, decode_uj=decode_uj, wasted_uj=None if decode_uj is None else decode_uj // 7,
                method="affine",
            )  # fmt: skip
        reasons = {"idle": "", "overhead": "startup", "unobserved": "recorder full"}
        for (kind, reason), uj in zip(reasons.items(), shares[-3:], strict=True):
            gap += self.post(
                plan,
                None,
                rate,
                part_unknown,
                window_ns=window_ns,
                kind=kind,
                reason=reason,
                gpu_ns=kinds[kind] * g,
                energy_uj=uj,
            )
        still_open = parts.pop() if len(parts) > 1 else None
        for part in parts:
            part["ended_ns"] = window_ns + 5_000_000_000
            self.close(plan, part)
        return still_open, gap

    def post(self, plan, part, rate, part_unknown, **fields):
        energy_unknown_ns = fields["gpu_ns"] // part_unknown if part_unknown else 0
        posting = Posting(engine_id=plan.engine_id, energy_unknown_ns=energy_unknown_ns, **fields)
        charge = self.carry.charge(plan.engine_id, rate, posting.gpu_ns, posting.energy_uj)
        self.ledger.post([(posting, charge)])
        if part is not None:
            part["postings"].append((posting, charge, rate))
        return energy_unknown_ns

    def part(self, plan, window_ns):
        self.records += 1
        number = self.records
        return {
            "record_id": f"record-{number:05d}",
            "tenant": TENANTS[number % 2],
            "model": "m-large" if plan.share == 1 else "m-small",
            "arrived_ns": window_ns + 1_000_000_000,
            "ended_ns": window_ns + WINDOW_NS,
            "postings": [],
        }

    def close(self, plan, part):
        postings = [posting for posting, _, _ in part["postings"]]
        costs = [charge.cost_nano for _, charge, _ in part["postings"]]
        cost = None if None in costs else sum(costs)
        rate = part["postings"][-1][2]

        def total(name):
            known = [value for posting in postings if (value := getattr(posting, name)) is not None]
            return sum(known) if known else None

        record = UsageRecord(
            record_id=part["record_id"], request_key=part["record_id"], request_id="req-" + part["record_id"],
            engine_id=plan.engine_id, tenant=part["tenant"], tenant_source="header", model=part["model"],
            operation="chat", traceparent=f"00-{int(part['record_id'][-5:]):032x}-{1:016x}-01",
            arrived_ns=part["arrived_ns"], scheduled_ns=part["arrived_ns"] + 2_000_000,
            decode_ns_at=part["arrived_ns"] + 9_000_000, ended_ns=part["ended_ns"],
            **{name: total(name) for name in ("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns", "energy_unknown_ns")},
            **{name: total(name) for name in ("energy_uj", "prefill_uj", "decode_uj")},
            energy_source="nvml_counter" if total("energy_uj") is not None else "none",
            input_tokens=self.random.randrange(1, 4000), cached_tokens=0, output_tokens=self.random.randrange(1, 900),
            computed_tokens=900, sequences=1, steps=40, batch_milli=self.random.randrange(1000, 30000),
            finish_reasons=("stop",), method="affine", simulated=True,
        )  # fmt: skip
        half = None if cost is None else cost // 3
        money = UsageCost(
            cost, half, None if cost is None else cost - half, rate[2] if rate else "", rate[1] if rate else ""
        )
        self.ledger.put_usage([(record, money)])

    def split(self, whole, pieces):
        cuts = sorted(self.random.randrange(whole + 1) for _ in range(pieces - 1))
        return [b - a for a, b in zip((0, *cuts), (*cuts, whole), strict=True)]


def write(home: Path, *, seed: int = 1, requests_per_window: int = 3, plans: tuple[Plan, ...] = PLANS) -> Path:
    """A ledger in balance under *home*; returns its path."""
    ledger = Ledger(home / "ledger.sqlite")
    with ledger.transaction():
        for rate in (COSTLY, CHEAP, WHOLE):
            ledger.put_rate(rate)
        writer = Writer(ledger, seed, requests_per_window)
        for plan in plans:
            writer.engine(plan)
    ledger.close()
    return home / "ledger.sqlite"
