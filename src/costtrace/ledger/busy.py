"""What the ledger has each worker's engines busy with requests for, to be held against what others say of them."""

from typing import NamedTuple

from costtrace.ledger.query import WORKER, Store
from costtrace.reports.rows import Period


class Busy(NamedTuple):
    """One worker by the ledger."""

    worker: str
    role: str
    devices: int
    request_ns: int
    """Wall time of steps with requests in them: device time by the number of devices."""
    shared: bool
    """Others were busy on the same device: each got its part of that time, so that a worker's steps took longer."""


def busy_workers(store: Store, period: Period) -> list[Busy]:
    """The workers of all engines whose meter has a window that begins in *period*."""
    sql = f"""
        SELECT {WORKER}, e.role, count(DISTINCT m.device), sum(m.request_ns), max(m.shared)
        FROM meter m JOIN engine e ON e.engine_id = m.engine_id
        WHERE m.window_ns >= :since AND m.window_ns < :until
        GROUP BY 1, 2 ORDER BY 1, 2
    """  # noqa: S608 - made of constants
    return [
        Busy(worker, role, devices, device_ns // max(1, devices), bool(shared))
        for worker, role, devices, device_ns, shared in store.rows(
            sql, {"since": period.since_ns, "until": period.until_ns}
        )
    ]
