"""How long the ledger has each worker's engines busy with requests, to compare with the workers' own passes."""

from typing import NamedTuple

from costtrace.ledger.answers import Period
from costtrace.ledger.dimensions import WORKER
from costtrace.ledger.reader import Store


class AttributedTime(NamedTuple):
    """One worker's time, by the ledger."""

    worker: str
    role: str
    request_ns: int
    """Wall time of its engines' steps with requests in them: for each engine, device time over its number of devices.

    A worker has an engine for each data-parallel rank, and each rank publishes passes of its own.
    """
    shared: bool
    """Other engines were busy on the same device. Each got its part of that time, so the worker's steps took longer."""


def attributed_times(store: Store, period: Period) -> dict[str, AttributedTime]:
    """The workers of all engines that have a metered window which begins in *period*, by worker."""
    sql = f"""
        SELECT {WORKER}, e.role, m.engine_id, count(DISTINCT m.device), sum(m.request_ns), max(m.shared)
        FROM meter m JOIN engine e ON e.engine_id = m.engine_id
        WHERE m.window_ns >= :since AND m.window_ns < :until
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    """  # noqa: S608 - made of constants
    by_worker: dict[str, AttributedTime] = {}
    limits: dict[str, int | str] = {"since": period.since_ns, "until": period.until_ns}
    for worker, role, _, devices, device_ns, shared in store.rows(sql, limits):
        so_far = by_worker.get(worker, AttributedTime(worker, role, 0, shared=False))
        by_worker[worker] = so_far._replace(
            request_ns=so_far.request_ns + device_ns // max(1, devices), shared=so_far.shared or bool(shared)
        )
    return by_worker
