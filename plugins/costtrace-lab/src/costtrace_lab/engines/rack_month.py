"""SIMULATED: a month of a 72-GPU rack as ledger rows, in balance to the nanosecond, for the board page and its tests.

Nine engines with eight GPUs each serve two models to four tenants, with a day and a week in their load. On the way the
software is updated and the price of a GPU-hour changes. Every row is marked ``simulated``. A usage record stands for
all requests of one tenant on one engine in one hour (a real month would have some hundred million requests): so
"per request" means per such bundle here. No figure of it is a measurement of anything.
"""

import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder
from costtrace.core.events import Position
from costtrace.core.rows import Charge, EngineRow, MeterRow, Posting, UsageCost, UsageRecord
from costtrace.core.units import NS_PER_HOUR, NS_PER_S
from costtrace.ledger.store import LEDGER_NAME, Ledger
from costtrace.pricing.price_book import DevicePrice, PriceBook
from costtrace.pricing.rating import Rate, Rater

GPUS_PER_ENGINE = 8
DEVICE = "NVIDIA GB200"
START_WALL_NS = 1_786_665_600 * NS_PER_S  # 2026-08-14T00:00:00Z
START_MONOTONIC_NS = 1_000_000 * NS_PER_S
DAY_NS = 24 * NS_PER_HOUR
IDLE_W, BUSY_W = 180, 980
"""Of one simulated GPU."""
TENANTS = ("acme", "globex", "initech", "umbrella")
WORKLOADS = {"acme": "assistant", "globex": "search", "initech": "batch summaries", "umbrella": "coding agent"}
MIX = {"acme": (3, 1, 40), "globex": (12, 1, 60), "initech": (8, 1, 5), "umbrella": (20, 1, 75)}
"""Input to output tokens, and per cent of the prompt in the cache."""


class Plan(NamedTuple):
    """What is simulated."""

    days: int = 30
    release_day: int = 16
    """From this day on all engines run the newer version."""
    speedup_per_mille: int = 1_300
    """How much faster it computes a token, x 1,000."""
    price_day: int = 23
    prices: tuple[str, str] = ("2.75", "2.45")
    """USD per GPU-hour before and after."""
    seed: int = 72


class Engine(NamedTuple):
    """One engine in one version."""

    number: int
    model: str
    peak: int
    """Output tokens/s of a full batch."""
    version: str
    first_hour: int
    last_hour: int

    @property
    def engine_id(self) -> str:
        """Its id."""
        return f"sim-rack-{self.number}-{self.version}"

    @property
    def devices(self) -> tuple[str, ...]:
        """UUIDs of its GPUs."""
        first = self.number * GPUS_PER_ENGINE
        return tuple(f"GPU-sim-{first + k:02d}" for k in range(GPUS_PER_ENGINE))


def write(home: Path, plan: Plan = Plan()) -> Path:  # noqa: B008 - immutable
    """Write the ledger under *home*, which has none yet; returns its path."""
    ledger = Ledger(home / LEDGER_NAME)
    writer = _Writer(ledger, plan)
    with ledger.transaction():
        for engine in _engines(plan):
            writer.engine(engine)
    ledger.close()
    return home / LEDGER_NAME


def _engines(plan: Plan) -> Iterator[Engine]:
    release = min(plan.release_day, plan.days) * 24
    for number in range(9):
        model, peak = ("gpt-oss-120b", 60_000) if number < 6 else ("deepseek-r1", 26_000)
        yield Engine(number, model, peak, "0.32.0", 0, release)
        if release < plan.days * 24:
            yield Engine(number, model, peak * plan.speedup_per_mille // 1_000, "0.33.0", release, plan.days * 24)


class _Part(NamedTuple):
    tenant: str
    tokens: tuple[int, int, int]
    """Input, cached of these, output."""
    times: tuple[int, int, int]
    """Device-ns: all, prefill, decode."""
    energies: tuple[int, int, int]
    """uJ: all, prefill, decode."""


class _Writer:
    def __init__(self, ledger: Ledger, plan: Plan) -> None:
        self.ledger = ledger
        self.plan = plan
        self.random = random.Random(plan.seed)  # noqa: S311 - invented traffic
        self.rater = Rater()
        self.records = 0
        change_ns = START_WALL_NS + plan.price_day * DAY_NS
        entries = [
            DevicePrice("NVIDIA GB200*", Decimal(price), includes_energy=True, from_ns=from_ns)
            for price, from_ns in zip(plan.prices, (0, change_ns), strict=True)
        ]
        self.book = PriceBook(version="simulated-rack", label="simulated", currency="USD", devices=entries)

    def engine(self, engine: Engine) -> None:
        start_ns = engine.first_hour * NS_PER_HOUR
        self.ledger.put_engine(
            EngineRow(
                engine_id=engine.engine_id,
                host="simulated-rack",
                boot_id="simulated",
                engine="simulator",
                version=engine.version,
                model=engine.model,
                role="aggregated",
                dp_rank=0,
                devices=engine.devices,
                device_name=DEVICE,
                device_kind="gpu",
                settings={"tensor_parallel_size": str(GPUS_PER_ENGINE)},
                simulated=True,
                started_wall_ns=START_WALL_NS + start_ns,
                started_ns=START_MONOTONIC_NS + start_ns,
                ended_ns=START_MONOTONIC_NS + engine.last_hour * NS_PER_HOUR,
                end_reason="shutdown",
            )
        )
        self.ledger.put_position(engine.engine_id, Position(1, 1, 1), done=True)
        for hour in range(engine.first_hour, engine.last_hour):
            self.hour(engine, hour)
        self.rater.forget(engine.engine_id)

    def hour(self, engine: Engine, hour: int) -> None:
        window_ns = START_WALL_NS + hour * NS_PER_HOUR
        rate = self.book.rate_for(DEVICE, "gpu", window_ns)
        assert rate is not None
        self.ledger.put_rate(rate.row())
        load = self._load(hour)
        startup_ns = 180 * NS_PER_S if hour == engine.first_hour else 0
        busy_ns = min(NS_PER_HOUR - startup_ns, int(NS_PER_HOUR * min(1.0, 0.3 + 0.9 * load)))
        idle_ns = NS_PER_HOUR - busy_ns - startup_ns
        watts = [BUSY_W - 200 + int(200 * load) + self.random.randrange(20) for _ in engine.devices]
        energies = [(busy_ns * busy_w + (NS_PER_HOUR - busy_ns) * IDLE_W) // 1_000 for busy_w in watts]
        self._meters(engine, hour, energies, (busy_ns, idle_ns, startup_ns))
        times = [part * GPUS_PER_ENGINE for part in (busy_ns, idle_ns, startup_ns)]
        waits_uj = [part * IDLE_W // 1_000 for part in times[1:]]
        busy_uj = sum(energies) - sum(waits_uj)
        self._requests(engine, window_ns, rate, load, times[0], busy_uj)
        for kind, reason, ns, uj in (
            ("idle", "", times[1], waits_uj[0]),
            ("overhead", "startup", times[2], waits_uj[1]),
        ):
            if ns:
                self._post(engine, rate, window_ns=window_ns, kind=kind, reason=reason, gpu_ns=ns, energy_uj=uj)

    def _load(self, hour: int) -> float:
        """Part of the peak that is asked for: a day, a week, some growth and chance."""
        of_day, day = hour % 24, hour // 24
        daily = 0.15 + 0.85 * max(0.0, 1 - abs(of_day - 14) / 10)
        weekly = 0.55 if (day + 4) % 7 >= 5 else 1.0  # the first day is a Friday
        return min(1.0, daily * weekly * (0.7 + 0.008 * day) * self.random.uniform(0.9, 1.1))

    def _meters(self, engine: Engine, hour: int, energies: list[int], parts: tuple[int, int, int]) -> None:
        start_ns = START_MONOTONIC_NS + hour * NS_PER_HOUR
        self.ledger.put_meter(
            MeterRow(
                window_ns=START_WALL_NS + hour * NS_PER_HOUR,
                engine_id=engine.engine_id,
                device=device,
                start_ns=start_ns,
                end_ns=start_ns + NS_PER_HOUR,
                request_ns=parts[0],
                idle_ns=parts[1],
                overhead_ns=parts[2],
                unobserved_ns=0,
                energy_uj=energy_uj,
                energy_source="nvml_counter",
                energy_scope="gpu",
            )
            for device, energy_uj in zip(engine.devices, energies, strict=True)
        )

    def _requests(self, engine: Engine, window_ns: int, rate: Rate, load: float, gpu_ns: int, energy_uj: int) -> None:
        wants = [self.random.randrange(500, 1_500) for _ in TENANTS]
        batch = max(0.05, load)
        # Small batches are expensive: the step's fixed part is shared by fewer.
        tokens = int(engine.peak * batch / (0.25 + 0.75 * batch) * (gpu_ns / GPUS_PER_ENGINE) / NS_PER_S)
        shares = zip(TENANTS, *(largest_remainder(whole, wants) for whole in (gpu_ns, energy_uj, tokens)), strict=True)
        for tenant, ns, uj, outputs in shares:
            ratio_in, ratio_out, cached_per_cent = MIX[tenant]
            inputs = outputs * ratio_in // ratio_out
            cached = inputs * cached_per_cent // 100
            # A computed prompt token takes a twentieth of an output token's time.
            prefill_ns, decode_ns = largest_remainder(ns, ((inputs - cached), 20 * outputs))
            prefill_uj, decode_uj = largest_remainder(uj, (prefill_ns, decode_ns))
            charge = self._post(
                engine,
                rate,
                window_ns=window_ns,
                kind="request",
                record_id=f"sim-{self.records:06d}",
                tenant=tenant,
                model=engine.model,
                gpu_ns=ns,
                prefill_ns=prefill_ns,
                decode_ns=decode_ns,
                wasted_ns=decode_ns // 50,
                energy_uj=uj,
                prefill_uj=prefill_uj,
                decode_uj=decode_uj,
                wasted_uj=decode_uj // 50,
                method="affine",
            )
            part = _Part(tenant, (inputs, cached, outputs), (ns, prefill_ns, decode_ns), (uj, prefill_uj, decode_uj))
            self._usage(engine, window_ns, part, charge, rate, batch)
            self.records += 1

    def _post(self, engine: Engine, rate: Rate, **fields: object) -> Charge:
        posting = Posting(engine_id=engine.engine_id, **fields)  # type: ignore[arg-type] # fields of a posting, by name
        charge = self.rater.charge(engine.engine_id, rate, posting.gpu_ns, posting.energy_uj)
        self.ledger.post([(posting, charge)])
        return charge

    def _usage(self, engine: Engine, window_ns: int, part: _Part, charge: Charge, rate: Rate, batch: float) -> None:
        tenant, tokens, times, energies = part
        cost = charge.cost_nano
        assert cost is not None
        prefill, decode = largest_remainder(cost, (times[1], times[2]))
        record_id = f"sim-{self.records:06d}"
        record = UsageRecord(
            record_id=record_id,
            request_key=record_id,
            request_id=f"req-{record_id}",
            engine_id=engine.engine_id,
            tenant=tenant,
            tenant_source="header",
            labels={"workload": f"{WORKLOADS[tenant]} (bundle of an hour)"},
            model=engine.model,
            operation="chat",
            arrived_ns=window_ns + NS_PER_S,
            scheduled_ns=window_ns + 2 * NS_PER_S,
            decode_ns_at=window_ns + 3 * NS_PER_S,
            ended_ns=window_ns + NS_PER_HOUR - NS_PER_S,
            gpu_ns=times[0],
            prefill_ns=times[1],
            decode_ns=times[2],
            wasted_ns=times[2] // 50,
            energy_uj=energies[0],
            prefill_uj=energies[1],
            decode_uj=energies[2],
            energy_source="nvml_counter",
            input_tokens=tokens[0],
            cached_tokens=tokens[1],
            output_tokens=tokens[2],
            computed_tokens=tokens[0] - tokens[1] + tokens[2],
            sequences=1,
            steps=tokens[2],
            batch_milli=int(256_000 * batch),
            finish_reasons=("stop",),
            method="affine",
            simulated=True,
        )
        self.ledger.put_usage([(record, UsageCost(cost, prefill, decode, rate.currency, rate.price_book))])
