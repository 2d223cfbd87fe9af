"""The reference: what really was drawn, and what sensor and counter must show, in exact integers.

Same physics as csrc/power.c, written again in Python; tests hold the two equal reading by reading. Times are ns since
t0, energy pJ (1 mW x 1 ns) or uJ rounded down, power mW.
"""

from pathlib import Path
from typing import Literal

from costtrace_nvml_sim.compiled import COUNTER_MODES, Compiled, CompiledDevice, read_compiled
from costtrace_nvml_sim.errors import NvmlSimError
from costtrace_nvml_sim.faults import FaultKind
from costtrace_nvml_sim.feed import read_feed
from costtrace_nvml_sim.waves import Wave

Scope = Literal["gpu", "module"]
PPM = 1_000_000
PJ_PER_UJ = 1_000_000
PJ_PER_MJ = 1_000_000_000


class Truth:
    """All devices of a compiled scenario. With live feeds it holds what was written when it was made."""

    def __init__(self, compiled: Compiled) -> None:
        """Read the feed files."""
        self.compiled = compiled
        self._feeds = [[Wave([0], [feed.initial_mw]) for feed in device.feeds] for device in compiled.devices]
        for file, path in enumerate(compiled.feed_files):
            self._read(file, path)

    @classmethod
    def of(cls, path: Path) -> "Truth":
        """Make the truth of a compiled scenario file. Raises NvmlSimError."""
        return cls(read_compiled(path))

    def _read(self, file: int, path: Path) -> None:
        uses: dict[int, list[Wave]] = {}
        for device, waves in zip(self.compiled.devices, self._feeds, strict=True):
            for feed, wave in zip(device.feeds, waves, strict=True):
                if feed.file == file:
                    uses.setdefault(feed.number, []).append(wave)
        for record in read_feed(path):
            for wave in uses.get(record.device, ()):
                wave.append(max(0, record.t_ns - self.compiled.t0_monotonic_ns), record.power_mw)

    def _device(self, device: int) -> CompiledDevice:
        if not 0 <= device < len(self.compiled.devices):
            raise NvmlSimError(f"no device {device}; the scenario has {len(self.compiled.devices)}")
        return self.compiled.devices[device]

    def energy_pj(self, device: int, t: int, *, scope: Scope = "gpu") -> int:
        """Return what the device drew from t0 to ``t``, exact."""
        what = self._device(device)
        pj = what.gpu.energy_pj(t) + sum(wave.energy_pj(t) for wave in self._feeds[device])
        return pj + what.module.energy_pj(t) if scope == "module" else pj

    def energy_uj(self, device: int, from_ns: int, until_ns: int, *, scope: Scope = "gpu") -> int:
        """Return what the device drew from one time to another, rounded down to uJ."""
        pj = self.energy_pj(device, until_ns, scope=scope) - self.energy_pj(device, from_ns, scope=scope)
        return pj // PJ_PER_UJ

    def _window_pj(self, device: int, scope: Scope, k: int) -> int:
        what = self._device(device)
        end = what.phase_ns + k * what.update_ns - what.lag_ns - what.settle_ns
        return self.energy_pj(device, end, scope=scope) - self.energy_pj(device, end - what.window_ns, scope=scope)

    def _shown_mw(self, device: int, pj: int, ns: int) -> int:
        what = self._device(device)
        mw = (2 * pj * what.gain_ppm + ns * PPM) // (2 * ns * PPM) + what.offset_mw
        mw = max(0, mw)
        return mw - mw % what.resolution_mw

    def _update(self, device: int, t: int) -> int:
        what = self._device(device)
        return (t - what.phase_ns) // what.update_ns

    def update_time_ns(self, device: int, t: int) -> int:
        """Return when the sensor's value that is shown at ``t`` was made."""
        what = self._device(device)
        return what.phase_ns + self._update(device, t) * what.update_ns

    def instant_mw(self, device: int, t: int, *, scope: Scope = "gpu") -> int:
        """Return what field 186 shows at ``t``."""
        window = self._window_pj(device, scope, self._update(device, t))
        return self._shown_mw(device, window, self._device(device).window_ns)

    def average_mw(self, device: int, t: int, *, scope: Scope = "gpu") -> int:
        """Return what field 185 shows at ``t``: the mean of the last second's windows."""
        what, k = self._device(device), self._update(device, t)
        pj = sum(self._window_pj(device, scope, k - j) for j in range(what.average_samples))
        return self._shown_mw(device, pj, what.window_ns * what.average_samples)

    def power_usage_mw(self, device: int, t: int) -> int:
        """Return what nvmlDeviceGetPowerUsage shows at ``t``."""
        average = self._device(device).usage_is_average
        return self.average_mw(device, t) if average else self.instant_mw(device, t)

    def counter_update_time_ns(self, device: int, t: int) -> int:
        """Return when the counter's value that is shown at ``t`` was made."""
        what = self._device(device)
        if what.counter_mode == COUNTER_MODES["part_time"]:
            return self.update_time_ns(device, t)
        phase, period = what.counter_phase_ns, what.counter_update_ns
        return phase + (t - phase) // period * period

    def _counted_pj(self, device: int, scope: Scope, t: int) -> int:
        what, t = self._device(device), max(0, t)
        if what.counter_mode == COUNTER_MODES["part_time"]:
            first, last = self._update(device, 0), self._update(device, t)
            pj = sum(self._window_pj(device, scope, k) for k in range(first + 1, last + 1))
            gained = pj * what.update_ns * what.gain_ppm // (what.window_ns * PPM)
            return gained + what.offset_mw * (last - first) * what.update_ns
        late = what.counter_lag_ns + what.settle_ns
        start = self.counter_update_time_ns(device, 0) - late
        end = self.counter_update_time_ns(device, t) - late
        pj = self.energy_pj(device, end, scope=scope) - self.energy_pj(device, start, scope=scope)
        return pj * what.gain_ppm // PPM + what.offset_mw * (end - start)

    def counter_mj(self, device: int, t: int, *, scope: Scope | None = None) -> int | None:
        """Return what the energy counter shows at ``t``, resets and freezes included; None without a counter."""
        what = self._device(device)
        if what.counter_mode == COUNTER_MODES["missing"]:
            return None
        scope = scope or ("module" if what.counter_module else "gpu")
        taken, since, until = what.counter_start_mj * PJ_PER_MJ, 0, t
        for fault in self.compiled.faults:
            if fault.from_ns > until or fault.device not in {-1, device}:
                continue
            if fault.kind is FaultKind.COUNTER_RESET:
                taken, since = 0, max(since, fault.from_ns)
            elif fault.kind is FaultKind.COUNTER_FREEZE and t < fault.until_ns:
                until = fault.from_ns
            elif fault.kind is FaultKind.COUNTER_FREEZE and fault.code:
                taken += self._counted_pj(device, scope, fault.from_ns) - self._counted_pj(device, scope, since)
                since = fault.until_ns
        taken += self._counted_pj(device, scope, until) - self._counted_pj(device, scope, since)
        mj = taken // PJ_PER_MJ
        return mj - mj % what.counter_resolution_mj
