"""What the ledger has each worker's engines busy with requests for, to be held against what others say of them."""

from typing import NamedTuple

from costtrace.ledger.answers import Period
from costtrace.ledger.dimensions import WORKER
from costtrace.ledger.reader import Store


class Busy(NamedTuple):
    """One worker by the ledger."""

    worker: str
    role: str
    request_ns: int
    """Wall time of its engines' steps with requests in them: of each engine, device time by its number of devices.

    A worker has an engine for each data parallel rank, and each publishes passes of its own.
    """
    shared: bool
    """Others were busy on the same device: each got its part of that time, so that a worker's steps took longer."""


def busy_workers(store: Store, period: Period) -> list[Busy]:
    """The workers of all engines whose meter has a window that begins in *period*."""
    sql = f"""
        SELECT {WORKER}, e.role, m.engine_id, count(DISTINCT m.device), sum(m.request_ns), max(m.shared)
        FROM meter m JOIN engine e ON e.engine_id = m.engine_id
        WHERE m.window_ns >= :since AND m.window_ns < :until
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    """  # noqa: S608 - made of constants
    found: dict[str, Busy] = {}
    limits: dict[str, int | str] = {"since": period.since_ns, "until": period.until_ns}
    for worker, role, _, devices, device_ns, shared in store.rows(sql, limits):
        known = found.get(worker, Busy(worker, role, 0, shared=False))
        wall_ns = device_ns // max(1, devices)
        found[worker] = known._replace(request_ns=known.request_ns + wall_ns, shared=known.shared or bool(shared))
    return list(found.values())
