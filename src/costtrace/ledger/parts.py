"""Reading the parts of requests, from one ledger or from those of several nodes."""

from collections.abc import Iterable, Iterator, Sequence

from costtrace.ledger.query import REQUEST_COLUMNS, WORKER, Filter, Store, find_requests, request_of, requests
from costtrace.reports.parts import Part
from costtrace.reports.rows import Period


def parts(stores: Sequence[Store], period: Period, only: Filter, order: str, limit: int) -> list[Part]:
    """All parts of the requests that `requests` finds with the same arguments in the first of *stores*."""
    found = requests(stores[0], period, only, order, limit)
    return _of_all(stores, dict.fromkeys(request.request_key for request in found))


def find_parts(stores: Sequence[Store], identifier: str, limit: int) -> list[Part]:
    """All parts of the requests that one of *stores* knows by *identifier* (see `find_requests`)."""
    keys = [request.request_key for store in stores for request in find_requests(store, identifier, limit)]
    return _of_all(stores, dict.fromkeys(keys))


def _of_all(stores: Sequence[Store], keys: Iterable[str]) -> list[Part]:
    keys = list(keys)
    return [part for store in stores for part in _of(store, keys)]


def _of(store: Store, keys: Iterable[str]) -> Iterator[Part]:
    sql = f"""
        SELECT {REQUEST_COLUMNS}, {WORKER} FROM usage u LEFT JOIN engine e ON e.engine_id = u.engine_id
        WHERE u.request_key = :key ORDER BY u.usage_id
    """  # noqa: S608 - made of constants
    for key in keys:
        for row in store.rows(sql, {"key": key}):
            yield Part(request_of(row[:-1]), row[-1])
