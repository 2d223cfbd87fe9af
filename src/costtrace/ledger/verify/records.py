"""Usage records: each is the sum of its postings, and every request's posting belongs to one."""

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter

from costtrace.ledger.schema.columns import column_of
from costtrace.ledger.verify.lines import (
    Discrepancy,
    EngineLine,
    RateLine,
    RecordPosting,
    UsageLine,
    energy_must_be_known,
    paired,
    shown,
)

_SAME = RecordPosting._fields.index("rate_id")
"""How many first fields of a usage record and of the sum of its postings must be equal."""
_SUMS = RecordPosting._fields[RecordPosting._fields.index("gpu_ns") : _SAME]
_OWNERS = ("engine_id", "tenant", "model")


def by_record(postings: Iterable[RecordPosting]) -> Iterator[RecordPosting]:
    """Sum the postings of each record. *postings* are sorted by record.

    A cost that is unknown on any posting is unknown. Energy is the sum of what is known; the time whose energy is
    unknown is beside it.
    """
    total: RecordPosting | None = None
    for posting in postings:
        if total is not None and total.record_id == posting.record_id:
            total = _add(total, posting)
            continue
        if total is not None:
            yield _without_unknown_energy(total)
        total = posting
    if total is not None:
        yield _without_unknown_energy(total)


def _without_unknown_energy(total: RecordPosting) -> RecordPosting:
    """Set the energy to None where none of it is known: the sum has 0 there."""
    if total.rows == 1 or energy_must_be_known(total.gpu_ns, total.energy_uj, total.energy_unknown_ns):
        return total
    return total._replace(energy_uj=None, prefill_uj=None, decode_uj=None)


def _add(total: RecordPosting, posting: RecordPosting) -> RecordPosting:
    sums: dict[str, int | None] = {}
    for field in _SUMS:
        before, amount = getattr(total, field), getattr(posting, field)
        if field == "cost_nano" and (before is None or amount is None):
            sums[field] = None
        else:
            sums[field] = (before or 0) + (amount or 0)
    names = (*_OWNERS, "rate_id")
    differing = {*total.differing, *(name for name in names if getattr(total, name) != getattr(posting, name))}
    added = {**posting._asdict(), **sums, "rows": total.rows + 1, "differing": tuple(sorted(differing))}
    return RecordPosting(**added)


def check_records(
    usage: Iterable[UsageLine],
    postings: Iterable[RecordPosting],
    engines: Mapping[str, EngineLine],
    rates: Mapping[str, RateLine],
) -> Iterator[Discrepancy]:
    """Compare usage records with their postings. Both streams are sorted by record_id."""
    first = itemgetter(0)
    for record, posted in paired(usage, by_record(postings), first, first):
        if record is None:
            if posted is not None:
                yield from _check_open(posted, engines)
            continue
        if not _holds(record, engines):
            yield from _explain(record, engines)
        if posted is None:
            yield from _check_unposted(record)
        elif posted.differing or record[:_SAME] != posted[:_SAME]:
            yield from _check_sums(record, posted)
            yield from _check_owner(record, posted)
            yield from _check_money(record, posted, rates)
        elif (
            (rate := rates.get(posted.rate_id)) is None
            or rate.currency != record.currency
            or rate.price_book != record.price_book
        ):
            yield from _check_money(record, posted, rates)


def _check_open(posted: RecordPosting, engines: Mapping[str, EngineLine]) -> Iterator[Discrepancy]:
    engine = engines.get(posted.engine_id)
    if engine is not None and engine.ended_ns == 0:
        return
    row = f"record {posted.record_id} ({posted.rows} postings of engine {posted.engine_id})"
    meaning = "its engine has ended, so its request cannot be open any more"
    yield Discrepancy("usage = postings", row, "record_id", "a usage record", "none", meaning)


def _holds(record: UsageLine, engines: Mapping[str, EngineLine]) -> bool:
    """Whether a usage record is right by itself. Written for speed; `_explain` names the fault."""
    engine = engines.get(record.engine_id)
    energy, cost = record.energy_uj, record.cost_nano
    if energy is None:
        energy_holds = record.prefill_uj is None and record.decode_uj is None
    else:
        prefill, decode = record.prefill_uj, record.decode_uj
        energy_holds = prefill is not None and decode is not None and energy == prefill + decode
        energy_holds = energy_holds and (record.energy_source not in {"", "none"} or not record.gpu_ns)
    if cost is None:
        cost_holds = record.prefill_nano is None and record.decode_nano is None
    else:
        prefill, decode = record.prefill_nano, record.decode_nano
        cost_holds = prefill is not None and decode is not None and cost == prefill + decode
    return (
        energy_holds
        and cost_holds
        and engine is not None
        and record.simulated >= engine.simulated
        and record.gpu_ns == record.prefill_ns + record.decode_ns
        and 0 <= record.wasted_ns <= record.gpu_ns
    )


def _explain(record: UsageLine, engines: Mapping[str, EngineLine]) -> Iterator[Discrepancy]:
    engine = engines.get(record.engine_id)
    if engine is None:
        yield _wrong(record, "engine_id", "one that the ledger knows", record.engine_id, "no such engine")
    elif engine.simulated and not record.simulated:
        yield _wrong(record, "simulated", 1, 0, "its engine is simulated, so it was not measured")
    parts = record.prefill_ns + record.decode_ns
    if record.gpu_ns != parts:
        yield _wrong(record, "gpu_ns", f"{parts} (prefill + decode)", record.gpu_ns, "the phases are not the whole")
    if not 0 <= record.wasted_ns <= record.gpu_ns:
        yield _wrong(record, "wasted_ns", f"0 to {record.gpu_ns}", record.wasted_ns, "waste is a part of the whole")
    for field, prefill, decode in (
        ("energy_uj", record.prefill_uj, record.decode_uj),
        ("cost_nano", record.prefill_nano, record.decode_nano),
    ):
        value = getattr(record, field)
        due = None if prefill is None or decode is None else prefill + decode
        if value != due or (prefill is None) != (decode is None):
            expected = f"{shown(due)} (prefill + decode)"
            yield _wrong(record, field, expected, shown(value), "the phases are not the whole")
    if record.energy_uj is not None and record.energy_source in {"", "none"} and record.gpu_ns:
        source = record.energy_source or "''"
        yield _wrong(record, "energy_source", "a source", source, "an energy that was not measured is unknown")


def _check_unposted(record: UsageLine) -> Iterator[Discrepancy]:
    """A record without postings never ran: its amounts are 0, or unknown."""
    for field in _SUMS:
        if value := getattr(record, field):
            yield _wrong(record, column_of(field), "0 (it has no posting)", value, "used, but nobody was billed")


def _check_sums(record: UsageLine, posted: RecordPosting) -> Iterator[Discrepancy]:
    for field in _SUMS:
        due, value = getattr(posted, field), getattr(record, field)
        if due != value:
            expected = f"{shown(due)} (its {posted.rows} postings)"
            meaning = "unknown on its postings, so unknown" if due is None else "not the sum of its postings"
            yield _wrong(record, column_of(field), expected, shown(value), meaning)


def _check_owner(record: UsageLine, posted: RecordPosting) -> Iterator[Discrepancy]:
    meaning = "somebody else would be billed for it"
    for field in _OWNERS:
        value, due = getattr(record, field), getattr(posted, field)
        if value != due:
            yield _wrong(record, field, f"{due!r} (on a posting)", repr(value), meaning)
        elif field in posted.differing:
            yield _wrong(record, field, "the same on all its postings", "several", meaning)


def _check_money(record: UsageLine, posted: RecordPosting, rates: Mapping[str, RateLine]) -> Iterator[Discrepancy]:
    """Currency and price book must be those of the rate on the postings; where these have several, of any rate."""
    several = "rate_id" in posted.differing
    applied = [rate for rate in rates.values() if several or rate.rate_id == posted.rate_id]
    # A record of unknown cost may name no currency.
    none_allowed = {""} if posted.cost_nano is None or not applied else set[str]()
    for field in ("currency", "price_book"):
        allowed = {getattr(rate, field) for rate in applied} | none_allowed
        value = getattr(record, field)
        if value not in allowed:
            due = " or ".join(map(repr, sorted(allowed)))
            yield _wrong(record, field, f"{due} (the rates of its postings)", repr(value), "priced by something else")


def _wrong(record: UsageLine, field: str, expected: object, found: object, meaning: str) -> Discrepancy:
    row = f"usage record {record.record_id} (engine {record.engine_id}, tenant {record.tenant})"
    return Discrepancy("usage = postings", row, field, str(expected), str(found), meaning)
