"""Usage records: each is the sum of its postings, and every posting belongs to one."""

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter

from costtrace.core.rows import is_known
from costtrace.ledger.schema.columns import column_of
from costtrace.ledger.verify.lines import Discrepancy, EngineLine, RateLine, RecordPosting, UsageLine, paired, shown

_SAME = RecordPosting._fields.index("rate_id")
"""So many first fields of a usage record and of its postings have to be the same."""
_SUMS = RecordPosting._fields[RecordPosting._fields.index("gpu_ns") : _SAME]
_OWNERS = ("engine_id", "tenant", "model")


def together(postings: Iterable[RecordPosting]) -> Iterator[RecordPosting]:
    """All postings of a record as one. Sorted by record.

    A cost that is unknown on any of them is unknown. An energy is as far as it is known, with its gap beside it.
    """
    whole: RecordPosting | None = None
    for posting in postings:
        if whole is not None and whole.record_id == posting.record_id:
            whole = _plus(whole, posting)
            continue
        if whole is not None:
            yield _whole(whole)
        whole = posting
    if whole is not None:
        yield _whole(whole)


def _whole(record: RecordPosting) -> RecordPosting:
    """Without an energy where none of it is known."""
    if record.rows == 1 or is_known(record.gpu_ns, record.energy_uj or 0, record.energy_unknown_ns):
        return record
    return record._replace(energy_uj=None, prefill_uj=None, decode_uj=None)


def _plus(one: RecordPosting, more: RecordPosting) -> RecordPosting:
    sums: dict[str, int | None] = {}
    for field in _SUMS:
        amount, other = getattr(one, field), getattr(more, field)
        if field == "cost_nano" and (amount is None or other is None):
            sums[field] = None
        else:
            sums[field] = (amount or 0) + (other or 0)
    names = (*_OWNERS, "rate_id")
    differing = {*one.differing, *(name for name in names if getattr(one, name) != getattr(more, name))}
    added = {**more._asdict(), **sums, "rows": one.rows + 1, "differing": tuple(sorted(differing))}
    return RecordPosting(**added)


def check_records(
    usage: Iterable[UsageLine],
    postings: Iterable[RecordPosting],
    engines: Mapping[str, EngineLine],
    rates: Mapping[str, RateLine],
) -> Iterator[Discrepancy]:
    """Usage records against their postings. Both sorted by record_id."""
    first = itemgetter(0)
    for record, posted in paired(usage, together(postings), first, first):
        if record is None:
            if posted is not None:
                yield from _check_open(posted, engines)
            continue
        if not _holds(record, engines):
            yield from _check_itself(record, engines)
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
    yield Discrepancy(
        "usage = postings",
        f"record {posted.record_id} ({posted.rows} postings of engine {posted.engine_id})",
        "record_id",
        "a usage record",
        "none",
        "its engine has ended, so its request cannot be open any more",
    )


def _holds(record: UsageLine, engines: Mapping[str, EngineLine]) -> bool:
    """All that must be true of a usage record by itself; written for speed, `_check_itself` says it in words."""
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


def _check_itself(record: UsageLine, engines: Mapping[str, EngineLine]) -> Iterator[Discrepancy]:
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
    """It never ran: its amounts are 0, or unknown where that is allowed."""
    for field in _SUMS:
        if getattr(record, field):
            yield _wrong(
                record, column_of(field), "0 (it has no posting)", getattr(record, field), "used, but nobody was billed"
            )


def _check_sums(record: UsageLine, posted: RecordPosting) -> Iterator[Discrepancy]:
    for field in _SUMS:
        due, found = getattr(posted, field), getattr(record, field)
        if due != found:
            expected = f"{shown(due)} (its {posted.rows} postings)"
            meaning = "unknown on its postings, so unknown" if due is None else "not the sum of its postings"
            yield _wrong(record, column_of(field), expected, shown(found), meaning)


def _check_owner(record: UsageLine, posted: RecordPosting) -> Iterator[Discrepancy]:
    for field in _OWNERS:
        value, other = getattr(record, field), getattr(posted, field)
        if value != other:
            yield _wrong(
                record, field, f"{other!r} (on a posting)", repr(value), "somebody else would be billed for it"
            )
        elif field in posted.differing:
            yield _wrong(
                record, field, "the same on all its postings", "several", "somebody else would be billed for it"
            )


def _check_money(record: UsageLine, posted: RecordPosting, rates: Mapping[str, RateLine]) -> Iterator[Discrepancy]:
    """Currency and price book are those of the rate on the postings; where several apply, of any rate there is."""
    several = "rate_id" in posted.differing
    applied = [rate for rate in rates.values() if several or rate.rate_id == posted.rate_id]
    # A record of unknown cost may name no currency.
    nothing = {""} if posted.cost_nano is None or not applied else set[str]()
    for field in ("currency", "price_book"):
        allowed = {getattr(rate, field) for rate in applied} | nothing
        found = getattr(record, field)
        if found not in allowed:
            due = " or ".join(repr(value) for value in sorted(allowed))
            yield _wrong(record, field, f"{due} (the rates of its postings)", repr(found), "priced by something else")


def _wrong(record: UsageLine, field: str, expected: object, found: object, meaning: str) -> Discrepancy:
    row = f"usage record {record.record_id} (engine {record.engine_id}, tenant {record.tenant})"
    return Discrepancy("usage = postings", row, field, str(expected), str(found), meaning)
