"""Wall time: ns since the epoch as a moment or a text, and back; and noticing that a wall clock has been set."""

import re
from datetime import UTC, datetime, timedelta, tzinfo

from costtrace.core.events import Heartbeat
from costtrace.core.units import NS_PER_S

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_NS = int((datetime.max.replace(tzinfo=UTC) - EPOCH).total_seconds()) * NS_PER_S


def moment(wall_ns: int, zone: tzinfo = UTC) -> datetime:
    """The moment *wall_ns*, in *zone*, cut to microseconds. Before 1970 or after 9999: the nearest day that can be."""
    clamped = min(max(wall_ns, 0), _LAST_NS - 86_400 * NS_PER_S)
    return (EPOCH + timedelta(microseconds=clamped // 1_000)).astimezone(zone)


def wall_ns(at: datetime) -> int:
    """Ns since the epoch of a moment with a zone, exact."""
    since = at - EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000


def storable(at_ns: int) -> int:
    """The time *at_ns*, if a ledger can hold it: 64 bits of ns reach from 1677 to 2262. Raises: OverflowError."""
    if not -(1 << 63) <= at_ns < 1 << 63:
        raise OverflowError(at_ns)
    return at_ns


_PERIOD = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?|-Q([1-4]))?", re.ASCII)


def named_period(name: str, zone: tzinfo) -> tuple[int, int]:
    """Begin and end, ns, of ``2026``, ``2026-Q4``, ``2026-11`` or ``2026-11-23``. Raises: ValueError, OverflowError."""
    if (match := _PERIOD.fullmatch(name)) is None:
        raise ValueError(name)
    year, month, day, quarter = match.groups()
    begin = datetime(int(year), int(month or 3 * int(quarter or 1) - 2), int(day or 1), tzinfo=zone)
    if day:
        end = (begin.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
    else:
        months = begin.month - 1 + (1 if month else 3 if quarter else 12)
        end = begin.replace(year=begin.year + months // 12, month=months % 12 + 1)
    return storable(wall_ns(begin)), storable(wall_ns(end))


def show_time(at_ns: int, zone: tzinfo = UTC) -> str:
    """``2026-11-23 14:05:06.789Z`` (or with the zone's offset); ``never`` for 0."""
    if at_ns == 0:
        return "never"
    at = moment(at_ns, zone)
    shown = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1_000:03d}"
    return shown + ("Z" if zone is UTC else f"{at:%z}")


CLOCK_STEP_NS = 2 * NS_PER_S
"""If wall time and monotonic time move apart by more than this, the host's wall clock has been set."""


LATEST_NS = 7_258_118_400 * NS_PER_S
"""2200: what a clock says beyond that is no time, and soon no number that a ledger can hold."""


def believable(wall_ns: int) -> int:
    """The time that a wall clock says, or the nearest that it can be: from 1970 to 2200."""
    return min(max(wall_ns, 0), LATEST_NS)


def wall_offset(offset_ns: int, beat: Heartbeat) -> int:
    """Wall time less monotonic time from *beat* on: *offset_ns*, or *beat*'s own if the wall clock was set.

    A clock that says what it cannot be is not followed.
    """
    if believable(beat.wall_ns) != beat.wall_ns:
        return offset_ns
    now_ns = beat.wall_ns - beat.at_ns
    return now_ns if abs(now_ns - offset_ns) > CLOCK_STEP_NS else offset_ns
