"""The double against a real card.

The curve of an external power meter goes in; what the card's own sensor showed at the same time should come out.

Data: GPU_Power_Benchmark (MIT), an RTX 3090 with a power meter on its supply.
"""

import csv
import datetime as dt
import statistics
import struct
from dataclasses import replace

import pytest
from costtrace_nvml_sim.compiler import compile_scenario
from costtrace_nvml_sim.scenario import parse_scenario
from costtrace_nvml_sim.truth import Truth
from public_data import DATA, needs

pytestmark = [pytest.mark.heavy, needs("power_meter")]
POWER_METER = DATA / "power_meter"
TICKS_PER_S = 2_933_500
METER_LATE_S = 0.05
LOG_AHEAD_S = 3_600  # the card's log is in local time, one hour ahead of UTC


def meter_curve(folder):
    """(Unix seconds, watts) of an 18-byte record: ticks, then four times volts and amperes in the upper 12 bits."""
    start = int((folder / "PMD_start_ts.txt").read_text()) / 1e6 - METER_LATE_S
    raw = (folder / "PMD_data.bin").read_bytes()
    curve, ticks, last = [], 0, None
    for stamp, *pairs in struct.iter_unpack("<9H", raw[: len(raw) // 18 * 18]):
        ticks += 0 if last is None else (stamp - last) % 65536
        last = stamp
        values = [0 if value & 0x8000 else value >> 4 for value in pairs]
        watts = sum(values[i] * 0.007568 * values[i + 1] * 0.0488 for i in (0, 2, 4, 6))
        curve.append((start + ticks / TICKS_PER_S, watts))
    return curve


def card_log(folder):
    with (folder / "gpudata.csv").open() as file:
        for row in list(csv.reader(file))[1:]:
            stamp = dt.datetime.strptime(row[0], "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=dt.UTC)
            yield stamp.timestamp() - LOG_AHEAD_S, float(row[7])


def distance_w(shown, simulated):
    """Root mean square distance after the best gain and offset, and that gain."""
    gain, offset = statistics.linear_regression(simulated, shown)
    rest = [y - gain * x - offset for x, y in zip(simulated, shown, strict=True)]
    return statistics.fmean(r * r for r in rest) ** 0.5, gain


def best(folder, directory, window_ms):
    curve = meter_curve(folder)
    t0 = curve[0][0]
    lines = {f"{t - t0:.7f}": f"{t - t0:.7f},{watts:.3f}\n" for t, watts in curve}
    (directory / "curve.csv").write_text("t_s,power_w\n" + "".join(lines.values()))
    log = [(t - t0, watts) for t, watts in card_log(folder) if t0 + 1.5 < t < curve[-1][0] - 0.1][::5]
    device = {
        "preset": "RTX3090",
        "power": {"kind": "csv", "path": "curve.csv"},
        "sensor": {"window_ms": window_ms, "phase_ms": 0},
    }
    compiled = compile_scenario(parse_scenario({"devices": [device]}), base=directory)
    results = []
    for phase_ms in range(0, 100, 10):
        compiled.devices[0] = replace(compiled.devices[0], phase_ns=phase_ms * 1_000_000)
        truth = Truth(compiled)
        simulated = [truth.instant_mw(0, round(t * 1e9)) / 1000 for t, _ in log]
        results.append(distance_w([watts for _, watts in log], simulated))
    return min(results)


@pytest.mark.parametrize("run", ["rtx3090_step", "rtx3090_duty50"])
def test_the_rtx_3090_preset_shows_what_the_real_card_showed(tmp_path, run):
    distance, gain = best(POWER_METER / run, tmp_path, 100)
    assert distance < 1.5
    assert 0.94 < gain < 0.96  # this card reads 5 % low, which is what `gain` is for


def test_another_window_does_not_explain_the_real_card(tmp_path):
    distance, _ = best(POWER_METER / "rtx3090_duty50", tmp_path, 25)
    assert distance > 5
