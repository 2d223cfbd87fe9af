"""When a sensor renews its value, and which of these updates a read has seen. Pure.

Used where sensors are read and where their readings are attributed.
"""

from typing import NamedTuple

CLOSE_SHARE = 0.04
"""The phase may be off by this share of a period, and by `DRIFT`."""
DRIFT = 2e-4
"""The phase may also be off by this share of the time since then. A read so close to an update may have seen either."""


class Phase(NamedTuple):
    """When a sensor renews its value: every *period_ns*, and at *phase_ns*."""

    period_ns: int
    phase_ns: int
    """Time of one update (monotonic); the others are whole periods from it."""

    def updated(self, read_ns: int, before_ns: int) -> int | None:
        """When a value was renewed that was read at *read_ns* and is not the value read before, at *before_ns*.

        None: the read was so close to an update that the value may be from the update before it.
        """
        age_ns = (read_ns - self.phase_ns) % self.period_ns
        at_ns = read_ns - age_ns
        close_ns = round(self.period_ns * CLOSE_SHARE + abs(read_ns - self.phase_ns) * DRIFT)
        if age_ns < close_ns and at_ns - self.period_ns > before_ns - close_ns:
            return None
        if age_ns > self.period_ns - close_ns:
            return None if at_ns > before_ns - close_ns else read_ns
        if at_ns > before_ns:
            return at_ns
        # The update must be after the read before: right after that one, or just before this one.
        return before_ns + 1 if before_ns - at_ns < at_ns + self.period_ns - read_ns else read_ns
