"""What the doctor reports: findings."""

from typing import Literal, NamedTuple

OK: Literal["ok"] = "ok"
WARN: Literal["warn"] = "warn"
FAIL: Literal["fail"] = "fail"


class Finding(NamedTuple):
    """What was found, how bad it is, what it means and what helps."""

    subject: str
    level: Literal["ok", "warn", "fail"]
    message: str
    remedy: str = ""
    """Empty where all is well."""


def ago(seconds: float) -> str:
    """Write an age for people."""
    if seconds < 120:
        return f"{max(0, seconds):.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"
