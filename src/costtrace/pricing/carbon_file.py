"""Reading the carbon intensity of a grid: a number of g/kWh, or a CSV file of them over time."""

import csv
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from costtrace.config.load import load
from costtrace.core.errors import CosttraceError
from costtrace.core.wall_time import wall_ns
from costtrace.pricing.carbon import CarbonIntensity, Intensity

HIGHEST = Decimal(3_000)
"""g/kWh; no grid is near it (coal alone is about 1,000)."""
HEADER = ("time", "g_per_kwh")


def load_intensity(text: str, pue: Decimal) -> CarbonIntensity:
    """Read *text*: a number, or the path of a CSV file with the columns ``time,g_per_kwh``. Raises: CosttraceError."""
    if (constant := _number(text)) is not None:
        return CarbonIntensity([Intensity(0, _checked(constant, repr(text)))], pue=pue, source=f"{text} g/kWh, stated")
    path = Path(text)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CosttraceError(
            f"cannot read the carbon intensity {text!r}: {error}. Give a number of g/kWh (380), or a CSV file with "
            "the columns time,g_per_kwh."
        ) from error
    if not rows or not set(HEADER) <= set(rows[0]):
        raise CosttraceError(f"{path}: needs a first line `time,g_per_kwh` and at least one line below it")
    points = [_point(row, f"{path}, line {number}") for number, row in enumerate(rows, 2)]
    if [point.from_ns for point in points] != sorted({point.from_ns for point in points}):
        raise CosttraceError(f"{path}: times must be in order, each once")
    return CarbonIntensity(points, pue=pue, source=path.name)


def _point(row: dict[str, str], where: str) -> Intensity:
    try:
        at = datetime.fromisoformat(row["time"] or "")
    except ValueError:
        raise CosttraceError(f"{where}: time: {row['time']!r} is none, as in 2026-11-01T13:00Z") from None
    grams = _number(row["g_per_kwh"] or "")
    if grams is None or None in row:  # None: cells beyond the header, as a decimal comma makes them
        raise CosttraceError(f"{where}: g_per_kwh: {row['g_per_kwh']!r} is no number, as in 380.5")
    return Intensity(wall_ns(at if at.tzinfo else at.replace(tzinfo=UTC)), _checked(grams, where))


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _checked(grams: Decimal, where: str) -> Decimal:
    if not 0 <= grams <= HIGHEST:
        raise CosttraceError(
            f"{where}: {grams} g/kWh cannot be: it must be from 0 to {HIGHEST}. Is it in another unit?"
        )
    return grams


def stated_intensity() -> CarbonIntensity | None:
    """The intensity that the settings state; None: none is. Raises: CosttraceError."""
    settings = load()
    return load_intensity(settings.carbon_intensity, settings.carbon_pue) if settings.carbon_intensity else None
