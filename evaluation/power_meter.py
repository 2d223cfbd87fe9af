"""How far is NVML from an external power meter? Lag, update period and energy error, before and after a declared gain.

    .venv/bin/python evaluation/power_meter.py ../shared/data/power_meter/rtx3090_*

Each folder is a recording of the GPU_Power_Benchmark project (Yang, Adamek, Armour): `gpudata.csv`, a log of nvidia-smi
in local time; `PMD_data.bin`, an ElmorLabs PMD-USB meter on the card's supply lines; `timestamps.csv`, when the load
was switched on and off. This is of a real card.

The meter's records: 18 bytes, little-endian, a clock of about 3 MHz (16 bits, it wraps) and four lines of voltage and
current, 12-bit values in the upper bits, 7.568 mV and 48.8 mA a unit. It starts at `PMD_start_ts.txt` (us, epoch). Its
clock is set by the load's last end, which the meter must see when it was (1.5 % on these recordings). A line that does
not rise with the others is not connected to the card and left out. The log's time zone is not recorded: it is the one
that brings the log's begin next to the meter's.

The gain that would have been right is found on each recording, and tried on the others, which it has not seen: what a
declared `sensor_gain` can be expected to do. A lag is found to about the log's interval (7 ms).
"""

import argparse
import csv
import struct
import sys
from bisect import bisect_right
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.sensors.sensor_period import PeriodFinder

RECORD = struct.Struct("<9H")
VOLT, AMPERE = 0.007568, 0.0488
LAGS_MS = range(0, 1_000, 5)
SMOOTH = 50
"""Records (some 10 ms) that a mean is taken over."""
CONNECTED = 0.7
"""Correlation of a line that feeds the card with the one that feeds it most."""
QUARTER_NS = 900 * NS_PER_S


class Curve:
    """Power over time; each value holds until the next."""

    def __init__(self, at_ns: list[int], watts: list[float]) -> None:
        self.at_ns, self.watts = at_ns, watts
        self._joules = [0.0]
        for (begin, end), power in zip(pairwise(at_ns), watts, strict=False):
            self._joules.append(self._joules[-1] + power * (end - begin) / NS_PER_S)

    def joules(self, until_ns: int) -> float:
        """From the beginning to a time within the curve."""
        number = bisect_right(self.at_ns, until_ns) - 1
        return self._joules[number] + self.watts[number] * (until_ns - self.at_ns[number]) / NS_PER_S

    def mean(self, from_ns: int, until_ns: int) -> float:
        """Mean power."""
        return (self.joules(until_ns) - self.joules(from_ns)) / (until_ns - from_ns) * NS_PER_S


class Found(NamedTuple):
    """What one of NVML's columns is like on one recording."""

    lag_ms: int
    period_ms: float
    gain: float
    """By which its energy has to be multiplied to be the meter's."""

    def error(self, gain: float = 1.0) -> float:
        """Of its energy with a declared gain, in percent of the meter's."""
        return 100 * (gain / self.gain - 1)


def meter(folder: Path) -> Curve:
    """The external meter's power, on the time of day."""
    began_ns = int((folder / "PMD_start_ts.txt").read_text().split()[0]) * 1_000
    data = (folder / "PMD_data.bin").read_bytes()
    ticks, lines, now, last = [], [[] for _ in range(4)], 0, -1
    for clock, *values in RECORD.iter_unpack(data[: len(data) - len(data) % RECORD.size]):
        now += (clock - last) % 65_536 if last >= 0 else 0
        last = clock
        ticks.append(now)
        for line, volts, amperes in zip(lines, values[::2], values[1::2], strict=True):
            line.append((volts >> 4) * VOLT * (amperes >> 4) * AMPERE)
    watts = [sum(each) for each in zip(*connected(lines), strict=True)]
    smooth = [sum(watts[n : n + SMOOTH]) / SMOOTH for n in range(0, len(watts) - SMOOTH, SMOOTH)]
    middle = (sorted(smooth)[len(smooth) * 9 // 10] + sorted(smooth)[len(smooth) // 10]) / 2
    fell = max(n for n, (before, after) in enumerate(pairwise(smooth), 1) if before >= middle > after)
    switched = sorted({int(text) * 1_000 for text in (folder / "timestamps.csv").read_text().split() if text.isdigit()})
    load_ended_ns = switched[1::2][-1]  # on, off, on, off, ..., and when the last pause was over
    tick_ns = (load_ended_ns - began_ns) / ticks[fell * SMOOTH]
    return Curve([began_ns + round(each * tick_ns) for each in ticks], watts)


def connected(lines: list[list[float]]) -> list[list[float]]:
    """The lines that rise with the one that rises most."""
    means = [[sum(line[n : n + SMOOTH]) / SMOOTH for n in range(0, len(line) - SMOOTH, SMOOTH)] for line in lines]
    # Not the highest less the lowest: a line that is not connected has spikes.
    first = max(means, key=lambda line: sorted(line)[len(line) * 9 // 10] - sorted(line)[len(line) // 10])
    return [line for line, mean in zip(lines, means, strict=True) if _correlation(first, mean) > CONNECTED]


def nvml(folder: Path, near_ns: int) -> dict[str, Curve]:
    """NVML's columns of power, on the meter's time: the log's zone is what brings its begin next to the meter's."""
    with (folder / "gpudata.csv").open(newline="") as file:
        rows = [{key.strip(): value.strip() for key, value in row.items()} for row in csv.DictReader(file)]
    rows = [row for row in rows if all(row.values())]
    stamps = [datetime.strptime(row["timestamp"], "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC) for row in rows]
    at_ns = [round(stamp.timestamp() * 1_000) * NS_PER_MS for stamp in stamps]
    zone_ns = round((at_ns[0] - near_ns) / QUARTER_NS) * QUARTER_NS
    kept = [n for n, (a, b) in enumerate(pairwise([0, *at_ns])) if b > a]
    return {
        name.removesuffix(" [W]"): Curve([at_ns[n] - zone_ns for n in kept], [float(rows[n][name]) for n in kept])
        for name in rows[0]
        if name.startswith("power.draw")
    }


def look(true: Curve, shown: Curve) -> Found:
    """Compare a column with the meter over the time that both cover."""
    begin = max(true.at_ns[0], shown.at_ns[0]) + NS_PER_S // 100
    end = min(true.at_ns[-1], shown.at_ns[-1] - max(LAGS_MS) * NS_PER_MS) - NS_PER_S // 100
    grid = list(range(begin, end, 10 * NS_PER_MS))
    real = [true.mean(a, b) for a, b in pairwise(grid)]

    def likeness(lag_ms: int) -> float:
        late_ns = lag_ms * NS_PER_MS
        return _correlation(real, [shown.mean(a + late_ns, b + late_ns) for a, b in pairwise(grid)])

    best = max(LAGS_MS, key=likeness)
    finder = PeriodFinder()
    for at_ns, watts in zip(shown.at_ns[-400:], shown.watts[-400:], strict=True):
        finder.see(at_ns, at_ns, round(watts * 1_000))
    finder.look(shown.at_ns[-1])
    late = best * NS_PER_MS
    gain = true.mean(grid[0], grid[-1]) / shown.mean(grid[0] + late, grid[-1] + late)
    return Found(best, finder.period_ns / NS_PER_MS, gain)


def _correlation(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    common = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread = sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)
    return common / spread**0.5 if spread else 0.0


def recordings(folders: list[Path]) -> dict[tuple[str, str], Found]:
    """By column and folder."""
    results = {}
    for folder in folders:
        true = meter(folder)
        for column, curve in nvml(folder, true.at_ns[0]).items():
            results[column, folder.name] = look(true, curve)
    return results


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    given = parser.parse_args()
    missing = [str(folder) for folder in given.folders if not (folder / "PMD_data.bin").is_file()]
    if missing:
        sys.exit(f"no recording of a meter (PMD_data.bin) in {', '.join(missing)}")
    results = recordings(given.folders)
    for (column, name), one in results.items():
        others = [each.gain for (c, n), each in results.items() if c == column and n != name]
        period = f"{one.period_ms:.1f} ms" if one.period_ms else "not found"
        line = f"{name:20} {column:20} lag {one.lag_ms:4d} ms, period {period:9}, energy {one.error():+.2f} %"
        if others:
            gain = sum(others) / len(others)
            line += f", with the other recordings' gain {gain:.3f}: {one.error(gain):+.2f} %"
        print(line)


if __name__ == "__main__":
    main()
