"""Moments as people type them: ``2026-11-23``, ``2026-11-23T14:30+01:00``, ``2h``, ``7d``, ``today``, ``yesterday``."""

import re
from datetime import datetime, timedelta, tzinfo

from costtrace.core.errors import CosttraceError
from costtrace.core.units import NS_PER_S
from costtrace.core.wall_time import moment, storable, wall_ns

_AGO = re.compile(r"(\d{1,9})\s*(s|m|min|h|d|w)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}


def stretch_ns(words: str) -> int:
    """Ns of a stretch of time as people type it: ``90s``, ``5m``, ``2h``. Raises: CosttraceError."""
    match = _AGO.fullmatch(words.strip())
    if match is None or not int(match[1]):
        raise CosttraceError(f"cannot read the stretch of time {words!r}: use 90s, 5m, 2h or 7d")
    return int(match[1]) * _SECONDS[match[2]] * NS_PER_S


def parse(words: str, now_ns: int, zone: tzinfo) -> int:
    """Ns since the epoch of what was typed; a time without offset is in *zone*. Raises: CosttraceError."""
    text = words.strip()
    if text == "now":
        return now_ns
    if text in {"today", "yesterday"}:
        midnight = moment(now_ns, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        day = midnight - timedelta(days=1) if text == "yesterday" else midnight
        return wall_ns(day.replace(tzinfo=zone))
    try:
        if (ago := _AGO.fullmatch(text)) is not None:
            return storable(now_ns - int(ago[1]) * _SECONDS[ago[2]] * NS_PER_S)
        at = datetime.fromisoformat(text)
        return storable(wall_ns(at if at.tzinfo else at.replace(tzinfo=zone)))
    except (ValueError, OverflowError):
        raise CosttraceError(
            f"cannot read the time {words!r}: use a date (2026-11-23), a date with a time (2026-11-23T14:30), a "
            "stretch back from now (30min, 2h, 7d), `today`, `yesterday` or `now`"
        ) from None
