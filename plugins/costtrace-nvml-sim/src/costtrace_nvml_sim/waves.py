"""True power over time: the forms of a scenario, and the exact piecewise constant `Wave` that is integrated.

Units: time in ns since the scenario's t0, power in mW, energy in pJ (1 mW x 1 ns = 1 pJ), all integers.
csrc/wave.c has the same arithmetic.
"""

import csv
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from costtrace.core.numbers import exact
from costtrace_nvml_sim.errors import NvmlSimError

NS_PER_S = 1_000_000_000
MAX_POINTS = 5_000_000
MAX_WATTS = 1_000_000

Watts = Annotated[float, Field(ge=0, le=MAX_WATTS)]
Seconds = Annotated[float, Field(ge=0, le=1e8)]
Duration = Annotated[float, Field(gt=0, le=1e8)]
MAX_RECORDED = 10**11
"""Of a time (s) or a power (W) in a recorded curve; times may be seconds since 1970."""


def to_ns(seconds: float) -> int:
    """Nanoseconds of a decimal number of seconds as it was written (0.1 is exactly 100,000,000)."""
    return round(Decimal(str(seconds)) * NS_PER_S)


def to_mw(watts: float) -> int:
    """Milliwatts of a decimal number of watts as it was written."""
    return round(Decimal(str(watts)) * 1000)


def _point(row: dict[str, str]) -> tuple[int, int]:
    """Time (ns) and power (mW) of a row of a recorded curve. Raises: ValueError, KeyError."""
    t_s, power_w = exact(row["t_s"] or ""), exact(row["power_w"] or "")
    if t_s is None or power_w is None or None in row or max(abs(t_s), abs(power_w)) > MAX_RECORDED:
        raise ValueError("no numbers")
    return round(t_s * NS_PER_S), round(power_w * 1000)


@dataclass(slots=True)
class Wave:
    """Power ``mw[i]`` from ``t[i]`` (ns) on; ``mw[0]`` also before ``t[0]`` = 0.

    With ``loop_ns`` > 0 the stretch [loop_from, loop_from + loop_ns) repeats. ``cum[i]``: pJ from 0 to ``t[i]``.
    """

    t: list[int]
    mw: list[int]
    loop_from: int = 0
    loop_ns: int = 0
    cum: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        points = list(zip(self.t, self.mw, strict=True))
        self.t, self.mw, self.cum = [], [], []
        for t, mw in points:
            self.append(t, mw)

    def append(self, t: int, mw: int) -> None:
        """Append a point: power from ``t`` on. A time before the last point's counts as the last point's."""
        if self.t:
            t = max(t, self.t[-1])
            self.cum.append(self.cum[-1] + self.mw[-1] * (t - self.t[-1]))
        else:
            self.cum.append(0)
        self.t.append(t)
        self.mw.append(mw)

    def _energy_once(self, t: int) -> int:
        if t <= self.t[0]:
            return self.mw[0] * (t - self.t[0])
        i = bisect_right(self.t, t) - 1
        return self.cum[i] + self.mw[i] * (t - self.t[i])

    def energy_pj(self, t: int) -> int:
        """Exact energy from 0 to ``t``; negative before 0."""
        if self.loop_ns <= 0 or t < self.loop_from:
            return self._energy_once(t)
        cycles, rest = divmod(t - self.loop_from, self.loop_ns)
        before = self._energy_once(self.loop_from)
        cycle = self._energy_once(self.loop_from + self.loop_ns) - before
        return self._energy_once(self.loop_from + rest) + cycles * cycle


class Strict(BaseModel):
    """A part of a scenario: without unknown keys, and true is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, data: object) -> object:
        """Put in place of true, where it would be read as 1, what no key accepts: the error then names the key."""
        if not isinstance(data, Mapping):
            return data
        kinds = {key: {field.annotation, *get_args(field.annotation)} for key, field in cls.model_fields.items()}
        return {
            key: object() if isinstance(value, bool) and bool not in kinds.get(key, ()) else value
            for key, value in data.items()
        }


class Constant(Strict):
    """Constant power."""

    kind: Literal["constant"]
    power_w: Watts

    def wave(self, base: Path) -> Wave:
        """Make one point."""
        del base
        return Wave([0], [to_mw(self.power_w)])


class Step(Strict):
    """One power before a time, another from it on."""

    kind: Literal["step"]
    before_w: Watts
    after_w: Watts
    at_s: Duration

    def wave(self, base: Path) -> Wave:
        """Make two points."""
        del base
        return Wave([0, to_ns(self.at_s)], [to_mw(self.before_w), to_mw(self.after_w)])


class Square(Strict):
    """High for the first ``duty`` of each period, low for the rest."""

    kind: Literal["square"]
    low_w: Watts
    high_w: Watts
    period_s: Duration
    duty: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def wave(self, base: Path) -> Wave:
        """Make two points that repeat."""
        del base
        period = to_ns(self.period_s)
        high = round(period * Decimal(str(self.duty)))
        if not 0 < high < period:
            raise NvmlSimError(f"square wave: a period of {self.period_s} s is too short for a duty of {self.duty}")
        return Wave([0, high], [to_mw(self.high_w), to_mw(self.low_w)], 0, period)


class Sine(Strict):
    """A sine in steps of ``step_ms`` (each step has the sine's value at its middle)."""

    kind: Literal["sine"]
    mean_w: Watts
    amplitude_w: Watts
    period_s: Duration
    step_ms: Duration = 1.0

    def wave(self, base: Path) -> Wave:
        """Make one period of steps that repeats."""
        del base
        period = to_ns(self.period_s)
        steps = max(1, round(period / to_ns(self.step_ms / 1000)))
        if steps > MAX_POINTS or steps > period:
            raise NvmlSimError(f"sine wave: {steps:,} steps a period are too many; make step_ms larger")
        starts = [period * i // steps for i in range(steps)]
        sines = [math.sin(2 * math.pi * (i + 0.5) / steps) for i in range(steps)]
        return Wave(starts, [max(0, to_mw(self.mean_w + self.amplitude_w * s)) for s in sines], 0, period)


class Segment(Strict):
    """Constant power for a time."""

    for_s: Duration
    power_w: Watts


class Segments(Strict):
    """Segments in sequence; afterwards the last one's power holds, or all of them repeat."""

    kind: Literal["segments"]
    segments: Annotated[tuple[Segment, ...], Field(min_length=1)]
    repeat: bool = False

    def wave(self, base: Path) -> Wave:
        """Make a point for each segment."""
        del base
        starts, powers, start_ns = [], [], 0
        for segment in self.segments:
            starts.append(start_ns)
            powers.append(to_mw(segment.power_w))
            start_ns += to_ns(segment.for_s)
        if sorted(set(starts)) != starts:
            raise NvmlSimError("segments: each for_s must be at least 1 ns")
        return Wave(starts, powers, 0, start_ns if self.repeat else 0)


class Csv(Strict):
    """A recorded curve: a CSV file with the columns ``t_s`` and ``power_w``; each row holds until the next.

    The first row's time counts as t0. With ``repeat`` the last row only says when the curve starts again.
    """

    kind: Literal["csv"]
    path: Path
    repeat: bool = False

    def wave(self, base: Path) -> Wave:
        """Make a point for each row."""
        path = base / self.path
        try:
            with path.open(newline="") as file:
                rows = [_point(row) for row in csv.DictReader(file)]
        except OSError as error:
            raise NvmlSimError(
                f"{path}: cannot be read ({error.strerror}); paths are relative to the scenario"
            ) from error
        except (KeyError, TypeError, ValueError, ArithmeticError, csv.Error) as error:
            raise NvmlSimError(f"{path}: needs numbers in the columns t_s and power_w, without commas") from error
        if not rows or len(rows) > MAX_POINTS:
            raise NvmlSimError(f"{path}: has {len(rows):,} rows; 1 to {MAX_POINTS:,} can be used")
        times = [t - rows[0][0] for t, _ in rows]
        powers = [mw for _, mw in rows]
        if any(b <= a for a, b in pairwise(times)) or min(powers) < 0:
            raise NvmlSimError(f"{path}: t_s must increase from row to row and power_w must not be negative")
        if not self.repeat:
            return Wave(times, powers)
        if len(rows) == 1:
            raise NvmlSimError(f"{path}: a repeated curve needs at least two rows")
        return Wave(times[:-1], powers[:-1], 0, times[-1])


Waveform = Annotated[Constant | Step | Square | Sine | Segments | Csv, Field(discriminator="kind")]
