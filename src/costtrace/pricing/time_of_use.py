"""When a time-of-use price of electricity holds: hours of the day, days of the week, by the clocks of a place. Pure."""

import re
from datetime import tzinfo
from typing import NamedTuple

from costtrace.core.wall_time import moment

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES = 24 * 60
_HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


class TimeOfUse(NamedTuple):
    """A stretch of the day on some days of the week, by the clocks of a place."""

    from_minute: int
    until_minute: int
    """Where it is not after `from_minute` the stretch goes over midnight, and belongs to the day on which it begins."""
    days: frozenset[int]
    """0 is Monday."""
    zone: tzinfo
    zone_name: str

    def holds(self, wall_ns: int) -> bool:
        """Whether *wall_ns* (since the epoch) is in it. An hour that a clock change repeats is in it twice."""
        at = moment(wall_ns, self.zone)
        return self.at(at.weekday(), at.hour * 60 + at.minute)

    def meets(self, other: "TimeOfUse") -> bool:
        """Whether some time is in both. Where the zones differ: True."""
        if self.zone_name != other.zone_name:
            return True
        edges = {self.from_minute, other.from_minute, 0}
        return any(self.at(day, at) and other.at(day, at) for day in range(7) for at in edges)

    @property
    def name(self) -> str:
        """As a price book has it."""
        hours = "-".join(f"{at // 60:02}:{at % 60:02}" for at in (self.from_minute, self.until_minute))
        return f"{hours} {','.join(DAYS[day] for day in sorted(self.days))} {self.zone_name}"

    def at(self, day: int, minute: int) -> bool:
        """Whether a minute of a day of the week is in it."""
        if self.from_minute < self.until_minute:
            return day in self.days and self.from_minute <= minute < self.until_minute
        return (day in self.days and minute >= self.from_minute) or (
            (day - 1) % 7 in self.days and minute < self.until_minute
        )


def parse_hours(text: str) -> tuple[int, int] | None:
    """Minutes of the day of ``07:00-20:00`` (``22:00-06:00`` goes over midnight, ``24:00`` ends a day); else None."""
    match = _HOURS.fullmatch(text)
    if match is None:
        return None
    start, end = (int(match[n]) * 60 + int(match[n + 1]) for n in (1, 3))
    if start >= MINUTES or end > MINUTES or int(match[2]) > 59 or int(match[4]) > 59 or start == end:
        return None
    return start, end


def parse_days(text: str) -> frozenset[int] | None:
    """Days of ``mon-fri`` or ``sat,sun``, 0 is Monday; None where *text* is not such."""
    days: set[int] = set()
    for part in text.lower().replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            return None
        start = DAYS.index(first)
        days.update((start + n) % 7 for n in range((DAYS.index(last or first) - start) % 7 + 1))
    return frozenset(days)
