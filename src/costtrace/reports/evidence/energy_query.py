"""Reading how the energy of devices was obtained, and what of it is pending."""

from collections.abc import Iterator

from costtrace.ledger.answers import Period
from costtrace.ledger.reader import SqliteStore
from costtrace.reports.evidence.energy import Metered

_SQL = """
    SELECT m.engine_id, m.device, coalesce(s.source, 'none'), coalesce(s.scope, ''), coalesce(s.gain, ''),
        coalesce(s.share, ''), coalesce(s.host, ''), coalesce(s.clock_ns, 0), coalesce(s.simulated, 0),
        sum(m.energy_uj), sum(m.request_ns + m.idle_ns + m.overhead_ns + m.unobserved_ns), sum(m.gap_ns), 0
    FROM meter m LEFT JOIN window_sensor s
        ON s.engine_id = m.engine_id AND s.device = m.device AND s.window_ns = m.window_ns
    WHERE m.window_ns >= :since AND m.window_ns < :until
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
    UNION ALL
    SELECT p.engine_id, p.device, 'pending', '', '', '', p.host, 0, 0, NULL, 0, 0, sum(p.device_ns)
    FROM pending p WHERE p.window_ns >= :since AND p.window_ns < :until
    GROUP BY 1, 2, 7
    ORDER BY 1, 2, 3, 4, 5, 6, 7
"""


def metered(store: SqliteStore, period: Period) -> Iterator[Metered]:
    """By engine, device and way of reading, what windows of *period* hold; and what of them is pending."""
    for row in store.rows(_SQL, {"since": period.since_ns, "until": period.until_ns}):
        yield Metered(*row)


def pending_ns(store: SqliteStore, period: Period) -> int:
    """Device time of *period* that is on no row yet, because its energy is pending."""
    sql = "SELECT coalesce(sum(device_ns), 0) FROM pending WHERE window_ns >= :since AND window_ns < :until"
    (device_ns,) = next(store.rows(sql, {"since": period.since_ns, "until": period.until_ns}))
    return int(device_ns)
