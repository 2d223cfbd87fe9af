"""A month of a small fleet, made up, in a real ledger through the real booking: the world of the tests of statements.

Three models, ten tenants, two device pools, a price change in mid-month, a driver reset (part of a window's energy is
unknown), an outage of the agent (unobserved, no energy), requests that close days after their postings, second parts.
Nothing here is measured: every engine is marked as simulated.
"""

import random
from decimal import Decimal
from fractions import Fraction

from costtrace.core.events import Position
from costtrace.core.rows import EngineRow, MeterRow, Posting, Rows, UsageRecord
from costtrace.ledger.booking import Booking, BookingState
from costtrace.ledger.store import Ledger
from costtrace.pricing.price_book import DevicePrice, ElectricityPrice, PriceBook

HOUR_NS = 3_600 * 10**9
DAY_NS = 24 * HOUR_NS
WINDOW_NS = 6 * HOUR_NS
START_NS = 1_793_491_200 * 10**9  # 2026-11-01
CHANGE_NS = START_NS + 15 * DAY_NS + 6 * HOUR_NS
END_NS = START_NS + 30 * DAY_NS
BOOT_NS = 10**15
TENANTS = [f"tenant-{n}" for n in range(10)]
POOLS = {"NVIDIA H100": (2, False), "NVIDIA L40S": (1, True)}
ENGINES = {  # pool, model, devices, windows of its life
    "h-1": ("NVIDIA H100", "m-large", ("GPU-h1a", "GPU-h1b"), (0, 120)),
    "h-2": ("NVIDIA H100", "m-mid", ("GPU-h2",), (3, 120)),
    "l-1": ("NVIDIA L40S", "m-small", ("GPU-l1",), (0, 120)),
    "l-2": ("NVIDIA L40S", "m-mid", ("GPU-l2",), (0, 100)),
}
RESET = ("h-1", 33)
OUTAGE = range(78, 80)
QUIET = {"l-2": range(40, 60)}  # nobody uses it


def price_book():
    return PriceBook(
        version="2026-11",
        currency="USD",
        devices=[
            DevicePrice("NVIDIA H100", Decimal("2.513"), False, START_NS - DAY_NS),
            DevicePrice("NVIDIA H100", Decimal("2.977"), False, CHANGE_NS),
            DevicePrice("NVIDIA L40S", Decimal("0.791"), True, START_NS - DAY_NS),
        ],
        electricity=[
            ElectricityPrice(Decimal("0.213"), START_NS - DAY_NS, pue=Decimal("1.27")),
            ElectricityPrice(Decimal("0.241"), CHANGE_NS, pue=Decimal("1.27")),
        ],
    )


def split(rng, whole, pieces):
    cuts = sorted(rng.randrange(whole + 1) for _ in range(pieces - 1))
    return [after - before for before, after in zip((0, *cuts), (*cuts, whole), strict=True)]


class Month:
    """Writes it; `bill` is what it should come to, summed on its own."""

    def __init__(self, ledger, tenants=TENANTS, seed=7, requests_per_window=6, models=None):
        self.ledger, self.tenants, self.rng = ledger, list(tenants), random.Random(seed)
        self.per_window = requests_per_window
        self.models = models or {}  # other names for them
        self.book = price_book()
        self.booking = Booking(self.book, BookingState(), lambda *_: None)
        self.records = 0
        self.quantities = {}
        self.late = []

    def write(self):
        with self.ledger.transaction():
            for engine_id in ENGINES:
                self.engine(engine_id)
            for k in range(120):
                for engine_id, (*_, life) in ENGINES.items():
                    if k in range(*life):
                        self.booking.write(self.ledger, self.booking.rate(self.window(engine_id, k)))
            left = Rows([], [], [record for _, record in self.late])
            self.booking.write(self.ledger, self.booking.rate(left))
        return self

    def engine(self, engine_id):
        pool, model, devices, (first, last) = ENGINES[engine_id]
        model = self.models.get(model, model)
        row = EngineRow(
            engine_id=engine_id, host="node-1", boot_id="boot", engine="simulator", version="1", model=model,
            role="aggregated", dp_rank=0, devices=devices, device_name=pool, device_kind="gpu", simulated=True,
            started_wall_ns=START_NS + first * WINDOW_NS, started_ns=BOOT_NS + first * WINDOW_NS,
            ended_ns=BOOT_NS + last * WINDOW_NS, end_reason="shutdown",
        )  # fmt: skip
        self.booking.know([row])
        self.ledger.put_engine(row)
        self.ledger.put_position(engine_id, Position(1, 100, 10), done=True)

    def window(self, engine_id, k):
        _, _, devices, (first, _) = ENGINES[engine_id]
        window_ns, g = START_NS + k * WINDOW_NS, len(devices)
        out = k in OUTAGE
        kinds = dict.fromkeys(("request", "idle", "overhead", "unobserved"), 0)
        if out:
            kinds["unobserved"] = WINDOW_NS
        else:
            overhead = WINDOW_NS // 40 if k == first else 0
            busy = 0 if k in QUIET.get(engine_id, ()) else self.rng.randrange(WINDOW_NS // 3, WINDOW_NS - overhead)
            kinds |= {"request": busy, "idle": WINDOW_NS - overhead - busy, "overhead": overhead}
        energies = [None if out else self.rng.randrange(10**12, 10**13) for _ in devices]
        gap_of = 3 if (engine_id, k) == RESET else 1 if out else 0  # every third ns of it is unknown, or all
        rows = Rows([], [], [])
        energy = None if out else sum(energies)
        gap = self.postings(rows, engine_id, window_ns, kinds, energy, gap_of)
        for n, (device, uj) in enumerate(zip(devices, energies, strict=True)):
            rows.meter.append(
                MeterRow(
                    window_ns=window_ns, engine_id=engine_id, device=device, start_ns=BOOT_NS + k * WINDOW_NS,
                    end_ns=BOOT_NS + (k + 1) * WINDOW_NS, energy_uj=uj,
                    energy_unknown_ns=gap // g + (gap % g if n == 0 else 0),
                    energy_source="none" if uj is None else "nvml_counter",
                    **{f"{kind}_ns": ns for kind, ns in kinds.items()},
                )
            )  # fmt: skip
        return rows

    def postings(self, rows, engine_id, window_ns, kinds, energy, gap_of):
        _, model, devices, _ = ENGINES[engine_id]
        model = self.models.get(model, model)
        g, gap = len(devices), 0
        served = self.per_window if kinds["request"] else 0
        times = split(self.rng, kinds["request"] * g, 2 * served) if served else []
        weights = split(self.rng, energy, 2 * served + 3) if energy is not None else [None] * (2 * served + 3)
        for i in range(served):
            prefill, decode = times[2 * i : 2 * i + 2]
            one, two = weights[2 * i : 2 * i + 2]
            self.records += 1
            posting = Posting(
                window_ns=window_ns, engine_id=engine_id, kind="request", record_id=f"r-{self.records:06d}",
                tenant=self.rng.choice(self.tenants), model=model, gpu_ns=prefill + decode, prefill_ns=prefill,
                decode_ns=decode, wasted_ns=decode // 11, energy_uj=None if one is None else one + two, prefill_uj=one,
                decode_uj=two, wasted_uj=None if two is None else two // 11, method="roofline",
                energy_unknown_ns=(prefill + decode) // gap_of if gap_of else 0,
            )  # fmt: skip
            gap += posting.energy_unknown_ns
            rows.postings.append(posting)
            self.close(rows, posting, late=self.records % 9 == 0)
        for (kind, reason), uj in zip(
            {"idle": "", "overhead": "startup", "unobserved": "agent was away"}.items(), weights[-3:], strict=True
        ):
            ns = kinds[kind] * g
            posting = Posting(
                window_ns=window_ns, engine_id=engine_id, kind=kind, reason=reason, gpu_ns=ns, energy_uj=uj,
                energy_unknown_ns=ns // gap_of if gap_of else 0,
            )  # fmt: skip
            gap += posting.energy_unknown_ns
            rows.postings.append(posting)
        for posting in rows.postings:
            rate = self.book.rate_for(ENGINES[engine_id][0], "gpu", window_ns)
            ns, uj = self.quantities.get((engine_id, rate), (0, 0))
            self.quantities[engine_id, rate] = (ns + posting.gpu_ns, uj + (posting.energy_uj or 0))
        return gap

    def close(self, rows, posting, *, late):
        second = self.records % 7 == 0
        names = (
            "gpu_ns",
            "prefill_ns",
            "decode_ns",
            "wasted_ns",
            "energy_unknown_ns",
            "energy_uj",
            "prefill_uj",
            "decode_uj",
        )
        record = UsageRecord(
            record_id=posting.record_id, request_key=posting.record_id, request_id=posting.record_id,
            engine_id=posting.engine_id, part=2 if second else 1, tenant=posting.tenant, tenant_source="header",
            model=posting.model, operation="chat", arrived_ns=posting.window_ns + 1, scheduled_ns=posting.window_ns + 2,
            decode_ns_at=posting.window_ns + 3,
            ended_ns=min(END_NS - 1, posting.window_ns + (2 * DAY_NS if late else HOUR_NS)),
            energy_source="nvml_counter" if posting.energy_uj is not None else "none",
            input_tokens=self.rng.randrange(1, 10**6), cached_tokens=self.rng.randrange(100),
            output_tokens=self.rng.randrange(1, 10**5), computed_tokens=900, sequences=1, steps=40, batch_milli=9000,
            finish_reasons=("stop",), method="roofline", simulated=True, user=f"u-{self.records % 5}",
            labels={"workload": f"=w-{self.records % 4}", "team.a": "x"} if self.records % 3 else {},
            **{name: getattr(posting, name) for name in names},
        )  # fmt: skip
        if late:
            self.late.append((posting.engine_id, record))
        else:
            rows.records.append(record)

    def bill(self):
        """Nano-dollars: for each engine and price, all its time and energy at once, rounded down once each."""
        whole = 0
        for (_, rate), (ns, uj) in self.quantities.items():
            whole += Fraction(ns * rate.device_numerator, rate.device_denominator).__floor__()
            if rate.energy_denominator:
                whole += Fraction(uj * rate.energy_numerator, rate.energy_denominator).__floor__()
        return whole


def write_month(home, **options):
    """Under *home*; returns the `Month`."""
    ledger = Ledger(home / "ledger.sqlite")
    month = Month(ledger, **options).write()
    ledger.close()
    return month


NASTY = [
    "../../etc/passwd", "<script>alert(1)</script>", "=cmd|' /C calc'!A0", 'a" onload="x', "\u202egpj.exe",
    "..", "Acme", "acme", "a\x00b", "<para><font color=red>", "tenant/\\..\\x", "\u4f60\u597d", "-1+2", "x" * 300,
]  # fmt: skip


NASTY_MODELS = {"m-large": "<img src=x onerror=alert(2)>", "m-mid": "@SUM(1+1)*cmd|'/C calc'!A0", "m-small": "../m"}


def raised_prices():
    """The month's price book after a correction: every price 1/7 higher."""
    return corrected(8)


def lowered_prices():
    """The same, every price 1/7 lower."""
    return corrected(6)


def corrected(sevenths, currency="USD"):
    """The month's price book with *sevenths* of its prices of devices."""
    book = price_book()
    devices = [entry._replace(per_gpu_hour=entry.per_gpu_hour * sevenths / 7) for entry in book.devices]
    return PriceBook(version="corrected", currency=currency, devices=devices, electricity=book.electricity)
