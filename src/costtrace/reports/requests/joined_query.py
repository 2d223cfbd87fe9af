"""Reading the parts of requests, from one ledger or from those of several nodes."""

from collections.abc import Collection, Iterator, Sequence

from costtrace.ledger.answers import Fit, Period
from costtrace.ledger.cost_by_now import renew
from costtrace.ledger.dimensions import WORKER
from costtrace.ledger.queries import REQUEST_COLUMNS, find_requests, fits, request_of, requests
from costtrace.ledger.reader import Filter, SqliteStore, Store
from costtrace.ledger.wholes import keys_of, whole_key
from costtrace.reports.requests.explain import saved_by_cache_ns
from costtrace.reports.requests.joined import RecordedPart


def parts(stores: Sequence[Store], period: Period, only: Filter, order: str, limit: int) -> list[RecordedPart]:
    """All parts of the requests that `requests` finds with the same arguments in each of *stores*."""
    keys = [request.request_key for store in stores for request in requests(store, period, only, order, limit)]
    return _parts_of(stores, keys)


def find_parts(stores: Sequence[Store], identifier: str, limit: int) -> list[RecordedPart]:
    """All parts of the requests that one of *stores* knows by *identifier* (see `find_requests`)."""
    keys = [request.request_key for store in stores for request in find_requests(store, identifier, limit)]
    return _parts_of(stores, keys)


def _parts_of(stores: Sequence[Store], keys: Collection[str]) -> list[RecordedPart]:
    by_whole = {whole_key(key): key for key in keys}
    return [part for store in stores for part in _parts_in(store, by_whole.values())]


def _parts_in(store: Store, keys: Collection[str]) -> Iterator[RecordedPart]:
    sql = f"""
        SELECT {REQUEST_COLUMNS}, {WORKER} FROM usage u LEFT JOIN engine e ON e.engine_id = u.engine_id
        WHERE u.request_key >= :key AND u.request_key <= :last ORDER BY u.usage_id
    """  # noqa: S608 - made of constants
    models: dict[str, Fit | None] = {}
    for key in keys:
        for row in store.rows(sql, keys_of(key)):
            (record,) = renew(store, [request_of(row[:-1])])
            if record.cached_tokens and record.engine_id not in models:
                models[record.engine_id] = _model(store, record.engine_id)
            yield RecordedPart(record, row[-1], saved_by_cache_ns(record, models.get(record.engine_id)))


def _model(store: Store, engine: str) -> Fit | None:
    """What an engine's step model has learned; None where that is not known, as in a store of the fleet."""
    return next(iter(fits(store, engine, 1)), None) if isinstance(store, SqliteStore) else None
