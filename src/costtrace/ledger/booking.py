"""From rows to the bill: every posting gets its charge, and all that is committed together is written together."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from costtrace.core.errors import EngineFailed
from costtrace.core.rows import Charge, EngineRow, MeterRow, Posting, Rows, UsageCost, UsageRecord
from costtrace.ledger.retries import settled
from costtrace.ledger.store import Ledger
from costtrace.pricing.price_book import PriceBook
from costtrace.pricing.rating import Rate, Rater, split_phases


class RecordCost(msgspec.Struct):
    """What the postings of an open record have been charged so far, in nano-units."""

    prefill_nano: int = 0
    decode_nano: int = 0
    unknown: bool = False
    """A posting of it has no known charge, so the record has none."""
    currency: str = ""
    price_book: str = ""


class BookingState(msgspec.Struct):
    """What the agent keeps in the ledger to go on rating where it stopped."""

    remainders: dict[str, int] = {}
    """`Rater.state`: fractions of a nano-unit that running sums carry."""
    open_costs: dict[str, RecordCost] = {}
    """By record id."""


class Booked(NamedTuple):
    """What a transaction put into the ledger; telemetry shows it."""

    postings: list[tuple[Posting, Charge]]
    meter: list[MeterRow]
    records: list[tuple[UsageRecord, UsageCost]]

    def extend(self, other: "Booked") -> None:
        """Add *other*, which is written in the same transaction."""
        self.postings.extend(other.postings)
        self.meter.extend(other.meter)
        self.records.extend(other.records)


class Booking:
    """Rates rows. After every posting, the sum of an engine's charges at a rate is the floor of the exact sum."""

    def __init__(self, book: PriceBook | None, state: BookingState, warn: Callable[[str, str], None]) -> None:
        self._book = book
        self._rater = Rater(state.remainders)
        self._open = state.open_costs
        self._warn = warn
        self._engines: dict[str, EngineRow] = {}
        self._rates: dict[tuple[str, int], Rate | None] = {}
        self._new_rates: dict[str, Rate] = {}

    def know(self, engines: Iterable[EngineRow]) -> None:
        """Add or refresh *engines*. An engine must be known before its rows are rated."""
        for engine in engines:
            self._engines[engine.engine_id] = engine

    def rate(self, rows: Rows) -> Booked:
        """Charge all postings, and sum the costs of the records that have closed. Raises: EngineFailed."""
        row: Posting | UsageRecord | None = None
        booked = Booked([], rows.meter, [])
        try:
            for row in rows.postings:
                booked.postings.append((row, self._charge(row)))
            for row in rows.records:
                booked.records.append((row, self._close(row)))
        except Exception as error:
            raise EngineFailed(() if row is None else (row.engine_id,)) from error
        return booked

    def write(self, ledger: Ledger, booked: Booked) -> None:
        """Write rates, postings, meter rows and records, within the caller's transaction. It settles the records."""
        booked.records[:] = settled(ledger.connection, booked.records)
        for rate in self._new_rates.values():
            ledger.put_rate(rate.row())
        ledger.post(booked.postings)
        ledger.put_meter(booked.meter)
        ledger.put_usage(booked.records)

    def committed(self) -> None:
        """The transaction of the last `write` has been committed: its rates are in the ledger."""
        self._new_rates.clear()

    def forget(self, engine_id: str) -> None:
        """Drop an engine that has been booked to its end."""
        self._rater.forget(engine_id)
        self._engines.pop(engine_id, None)

    def state(self) -> BookingState:
        """The state to keep, in the same transaction as `write`."""
        return BookingState(self._rater.state(), self._open)

    def _charge(self, posting: Posting) -> Charge:
        engine = self._engines[posting.engine_id]
        rate = self._rate(engine, posting.window_ns)
        charge = self._rater.charge(posting.engine_id, rate, posting.gpu_ns, posting.energy_uj)
        if rate is not None and rate.energy_denominator and charge.energy_nano is None and posting.gpu_ns:
            self._warn("energy", _energy_unknown_message(engine, rate))
        if posting.record_id:
            self._add_to_record(posting, charge, rate)
        return charge

    def _rate(self, engine: EngineRow, window_ns: int) -> Rate | None:
        key = (engine.engine_id, window_ns)
        if key not in self._rates:
            if len(self._rates) > 10_000:
                self._rates.clear()
            name, kind = engine.device_name, engine.device_kind
            rate = self._book.rate_for(name, kind, window_ns) if self._book else None
            self._rates[key] = rate
            if rate is not None:
                self._new_rates[rate.rate_id] = rate
            if message := self._no_price_message(engine, window_ns):
                self._warn("price", message)
        return self._rates[key]

    def _no_price_message(self, engine: EngineRow, window_ns: int) -> str:
        if self._book is None:
            return (
                "no price book is set: time and energy are accounted for, every cost is unknown. Set COSTTRACE_PRICES "
                "to a price book (`costtrace prices --help` tells how to write one)."
            )
        return self._book.missing(engine.device_name, engine.device_kind, window_ns)

    def _add_to_record(self, posting: Posting, charge: Charge, rate: Rate | None) -> None:
        open_cost = self._open.setdefault(posting.record_id, RecordCost())
        prefill_nano, decode_nano = split_phases(
            charge, posting.prefill_ns, posting.decode_ns, posting.prefill_uj, posting.decode_uj
        )
        if prefill_nano is None or decode_nano is None or rate is None:
            open_cost.unknown = True
            return
        open_cost.prefill_nano += prefill_nano
        open_cost.decode_nano += decode_nano
        open_cost.currency, open_cost.price_book = rate.currency, rate.price_book

    def _close(self, record: UsageRecord) -> UsageCost:
        cost = self._open.pop(record.record_id, None)
        if cost is None:  # the request never ran: it has no posting
            rate = self._rate(self._engines[record.engine_id], record.ended_ns)
            return UsageCost() if rate is None else UsageCost(0, 0, 0, rate.currency, rate.price_book)
        if cost.unknown:
            return UsageCost(currency=cost.currency, price_book=cost.price_book)
        return UsageCost(
            cost.prefill_nano + cost.decode_nano, cost.prefill_nano, cost.decode_nano, cost.currency, cost.price_book
        )


def _energy_unknown_message(engine: EngineRow, rate: Rate) -> str:
    return (
        f"the price of {rate.device_entry} does not include energy, and the energy of {engine.device_name} on "
        f"{engine.host} is not measured: the device's part of the cost is known, the whole is not. See to the sensor "
        "(`costtrace doctor`), or use a price with includes_energy: true."
    )
