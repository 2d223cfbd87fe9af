"""Reads the ledger for the trial balance: streams its rows, sorted as each check needs them."""

import json
from collections.abc import Iterator
from itertools import starmap

from costtrace.ledger.reader import Store
from costtrace.ledger.schema.closing import HOUR
from costtrace.ledger.schema.columns import columns_of
from costtrace.ledger.verify.adjustments import check_adjustments
from costtrace.ledger.verify.audit_closed import adjustments, check_seals, hours_until, rollups, runs
from costtrace.ledger.verify.lines import (
    Counts,
    DeviceLine,
    Discrepancy,
    EngineLine,
    EngineTotals,
    MeterLine,
    PostingLine,
    RateLine,
    RecordPosting,
    UsageLine,
    WindowSums,
)
from costtrace.ledger.verify.meters import Device, DeviceCheck, check_tiling, check_windows
from costtrace.ledger.verify.money import Account, PostingCheck
from costtrace.ledger.verify.records import check_records

_LARGEST = 2**53
"""104 days in ns: no single row comes near it. A larger value is damage, and could overflow a sum in SQL."""


class Audit:
    """One run of all checks over a store. Read `discrepancies` to its end first: it fills the other figures."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.engines = {line.engine_id: line for line in _engines(store)}
        self._bad_rates: list[Discrepancy] = []
        self._rates = self._read_rates()
        self._postings = PostingCheck(self.engines, self._rates)
        self._devices = DeviceCheck(self.engines)

    def discrepancies(self) -> Iterator[Discrepancy]:
        """Run all checks and stream what does not add up. Raises: LedgerError."""
        yield from self._bad_rates
        damaged = False
        for discrepancy in _oversized(self._store):
            damaged = True
            yield discrepancy
        yield from check_seals(self._store)
        yield from self._postings.check_rollups(rollups(self._store))
        yield from self._postings.check(_postings(self._store))
        yield from check_tiling(_meter(self._store, "m.engine_id, m.device, m.start_ns"), self.engines)
        self._devices.set_metered_until(self._metered_until())
        yield from self._devices.check(_meter(self._store, "m.device, e.host, e.boot_id, m.start_ns, m.engine_id"))
        if damaged:
            return  # the sums below would overflow
        hours = hours_until(self._store)
        windows = _posted_windows(self._store, hours), _metered_windows(self._store, hours)
        yield from check_windows(*windows, self._open_windows())
        yield from check_adjustments(adjustments(self._store, hours), runs(self._store), self._rates)
        yield from check_records(_usage(self._store), _record_postings(self._store), self.engines, self._rates)

    def accounts(self) -> list[Account]:
        """Money by engine and rate, after `discrepancies`."""
        return self._postings.accounts()

    def cost_unknown_ns(self) -> dict[str, int]:
        """Device-ns without a price, by engine, after `discrepancies`."""
        return self._postings.cost_unknown_ns

    def totals(self) -> list[Device]:
        """Wall time of each device and the time on its engines' meter rows, after `discrepancies`."""
        return self._devices.devices

    def devices(self) -> list[DeviceLine]:
        """The time of each device, by engine."""
        sql = """
            SELECT device, engine_id, sum(end_ns - start_ns), sum(request_ns), sum(idle_ns),
                sum(overhead_ns), sum(unobserved_ns), sum(energy_uj), sum(gap_ns)
            FROM meter GROUP BY device, engine_id ORDER BY device, min(start_ns), engine_id
        """
        return [DeviceLine(*row) for row in self._store.rows(sql)]

    def engine_totals(self) -> list[EngineTotals]:
        """The time and energy of each engine, metered and posted."""
        posted = {
            row[0]: row
            for row in self._store.rows("SELECT engine_id, sum(gpu_ns), sum(energy_uj) FROM posted GROUP BY 1")
        }
        metered = {row[0]: row for row in self._store.rows(_ENGINE_METER)}
        simulated: dict[str, int] = dict(self._store.rows("SELECT engine_id, simulated FROM engine"))
        nothing = ("", 0, None)
        totals = []
        for engine_id in sorted(posted.keys() | metered.keys()):
            _, meter_ns, meter_uj = metered.get(engine_id, nothing)
            _, posted_ns, posted_uj = posted.get(engine_id, nothing)
            is_simulated = bool(simulated.get(engine_id))
            totals.append(EngineTotals(engine_id, meter_ns, posted_ns, meter_uj, posted_uj, is_simulated))
        return totals

    def counts(self) -> Counts:
        """How many rows were checked."""
        tables = ("engine", "posting", "meter", "usage")
        return Counts(*(next(self._store.rows(f"SELECT count(*) FROM {table}"))[0] for table in tables))  # noqa: S608 - constants

    def _metered_until(self) -> dict[str, int]:
        """The monotonic ns up to which all devices of an engine are metered, by engine."""
        sql = """
            SELECT engine_id, min(until_ns) FROM (
                SELECT engine_id, device, max(end_ns) AS until_ns FROM meter GROUP BY engine_id, device)
            GROUP BY engine_id
        """
        return dict(self._store.rows(sql))

    def _open_windows(self) -> dict[str, int]:
        """The window of the newest posting of each engine that is running."""
        sql = """
            SELECT p.engine_id, p.window_ns FROM posting p
            WHERE (p.engine_id, p.posting_id) IN (
                SELECT engine_id, max(posting_id) FROM posting
                WHERE engine_id IN (SELECT engine_id FROM engine WHERE ended_ns = 0) GROUP BY engine_id)
        """
        return dict(self._store.rows(sql))

    def _read_rates(self) -> dict[str, RateLine]:
        sql = """
            SELECT rate_id, price_book, currency, device_numerator, device_denominator, energy_numerator,
                energy_denominator, includes_energy FROM rate
        """
        rates: dict[str, RateLine] = {}
        for rate_id, book, currency, *numbers, includes in self._store.rows(sql):
            try:
                device = _ratio(numbers[0], numbers[1])
                energy = _ratio(numbers[2], numbers[3]) if numbers[2] else None
            except (ValueError, ZeroDivisionError):
                self._bad_rates.append(
                    Discrepancy(
                        "rate",
                        f"rate {rate_id}",
                        "numerator, denominator",
                        "integers, the denominator above 0",
                        ", ".join(map(str, numbers)),
                        "nothing that it priced can be recomputed",
                    )
                )
                continue
            rates[rate_id] = RateLine(rate_id, book, currency, device, energy, bool(includes))
        return rates


_ENGINE_METER = """
    SELECT engine_id, sum(request_ns + idle_ns + overhead_ns + unobserved_ns), sum(energy_uj)
    FROM meter GROUP BY engine_id
"""


def _ratio(numerator: str, denominator: str) -> tuple[int, int]:
    above, below = int(numerator), int(denominator)
    if below <= 0:
        raise ZeroDivisionError
    return above, below


def _engines(store: Store) -> Iterator[EngineLine]:
    sql = """
        SELECT e.engine_id, e.host, e.boot_id, e.devices, e.started_ns, e.ended_ns, e.simulated, p.done
        FROM engine e LEFT JOIN position p ON p.engine_id = e.engine_id
    """
    for engine_id, host, boot_id, devices, started_ns, ended_ns, simulated, done in store.rows(sql):
        try:
            uuids = tuple(json.loads(devices))
        except ValueError:
            uuids = ()  # `check_tiling` reports its meter rows then
        position = None if done is None else bool(done)
        yield EngineLine(engine_id, f"{host}/{boot_id}", uuids, started_ns, ended_ns, bool(simulated), position)


def _oversized(store: Store) -> Iterator[Discrepancy]:
    for table, name, fields in (
        ("posting", "posting_id", ("gpu_ns", "energy_uj", "device_nano", "energy_nano")),
        ("meter", "device", ("request_ns", "idle_ns", "overhead_ns", "unobserved_ns", "energy_uj")),
        ("usage", "record_id", ("gpu_ns", "energy_uj", "cost_nano")),
    ):
        wrong = " OR ".join(f"{field} NOT BETWEEN -{_LARGEST} AND {_LARGEST}" for field in fields)
        sql = f"SELECT {name}, {', '.join(fields)} FROM {table} WHERE {wrong}"  # noqa: S608 - constants
        for row_id, *values in store.rows(sql):
            for field, value in zip(fields, values, strict=True):
                if value is not None and abs(value) > _LARGEST:
                    due, meaning = f"at most {_LARGEST}", "no row is this large: it is damaged"
                    yield Discrepancy("plausible", f"{table} {row_id}", field, due, str(value), meaning)


def _postings(store: Store) -> Iterator[PostingLine]:
    sql = f"SELECT {columns_of(PostingLine._fields)} FROM posting ORDER BY posting_id"  # noqa: S608 - constants
    return map(PostingLine._make, store.rows(sql))


def _meter(store: Store, order: str) -> Iterator[MeterLine]:
    sql = f"""
        SELECT {columns_of(MeterLine._fields, "m")}
        FROM meter m LEFT JOIN engine e ON e.engine_id = m.engine_id ORDER BY {order}
    """  # noqa: S608 - constants
    return map(MeterLine._make, store.rows(sql))


def _posted_windows(store: Store, hours: int) -> Iterator[WindowSums]:
    sums = ", ".join(
        f"sum(CASE WHEN kind = '{kind}' THEN gpu_ns ELSE 0 END)"
        for kind in ("request", "idle", "overhead", "unobserved")
    )
    sql = f"""
        SELECT engine_id, {_window(hours)} AS w, {sums}, coalesce(sum(energy_uj), 0), sum(gap_ns)
        FROM posted GROUP BY engine_id, w ORDER BY engine_id, w
    """  # noqa: S608 - constants
    return map(WindowSums._make, store.rows(sql))


def _window(hours: int) -> str:
    """SQL of the time by which windows are compared: their hour before *hours* (wall ns), where rows were compacted."""
    return (
        f"CASE WHEN window_ns < {hours} THEN window_ns - window_ns % {HOUR} ELSE window_ns END"
        if hours
        else "window_ns"
    )


def _metered_windows(store: Store, hours: int) -> Iterator[WindowSums]:
    sql = f"""
        SELECT engine_id, {_window(hours)} AS w, sum(request_ns), sum(idle_ns), sum(overhead_ns), sum(unobserved_ns),
            coalesce(sum(energy_uj), 0), sum(gap_ns)
        FROM meter GROUP BY engine_id, w ORDER BY engine_id, w
    """  # noqa: S608 - constants
    return map(WindowSums._make, store.rows(sql))


def _record_postings(store: Store) -> Iterator[RecordPosting]:
    sql = """
        SELECT record_id, engine_id, tenant, model, gpu_ns, prefill_ns, decode_ns, wasted_ns, gap_ns, energy_uj,
            prefill_uj, decode_uj, device_nano + energy_nano, rate_id
        FROM posting WHERE record_id != '' ORDER BY record_id, posting_id
    """
    # Faster than one GROUP BY: most records have one posting.
    return starmap(RecordPosting, store.rows(sql))


def _usage(store: Store) -> Iterator[UsageLine]:
    sql = f"SELECT {columns_of(UsageLine._fields)} FROM usage ORDER BY record_id"  # noqa: S608 - constants
    return map(UsageLine._make, store.rows(sql))
