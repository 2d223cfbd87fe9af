"""The reference: the energy really drawn, and the readings that sensor and counter must show, in exact integers.

The same physics as csrc/power.c, in Python; tests compare the two reading by reading. Times are ns since
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
    """The true power of all devices of a compiled scenario. Of live feeds it has the records at its creation."""

    def __init__(self, compiled: Compiled) -> None:
        """Read the feed files."""
        self.compiled = compiled
        self._feeds = [[Wave([0], [feed.initial_mw]) for feed in device.feeds] for device in compiled.devices]
        for file, path in enumerate(compiled.feed_files):
            self._read(file, path)

    @classmethod
    def of(cls, path: Path) -> "Truth":
        """The truth of a compiled scenario file. Raises NvmlSimError."""
        return cls(read_compiled(path))

    def _read(self, index: int, path: Path) -> None:
        waves_by_number: dict[int, list[Wave]] = {}
        for device, waves in zip(self.compiled.devices, self._feeds, strict=True):
            for feed, wave in zip(device.feeds, waves, strict=True):
                if feed.file == index:
                    waves_by_number.setdefault(feed.number, []).append(wave)
        for record in read_feed(path):
            for wave in waves_by_number.get(record.device, ()):
                wave.append(max(0, record.t_ns - self.compiled.t0_monotonic_ns), record.power_mw)

    def _device(self, device: int) -> CompiledDevice:
        if not 0 <= device < len(self.compiled.devices):
            raise NvmlSimError(f"no device {device}; the scenario has {len(self.compiled.devices)}")
        return self.compiled.devices[device]

    def energy_pj(self, device: int, t: int, *, scope: Scope = "gpu") -> int:
        """Return the exact energy that the device drew from t0 to ``t``."""
        spec = self._device(device)
        pj = spec.gpu.energy_pj(t) + sum(wave.energy_pj(t) for wave in self._feeds[device])
        return pj + spec.module.energy_pj(t) if scope == "module" else pj

    def energy_uj(self, device: int, from_ns: int, until_ns: int, *, scope: Scope = "gpu") -> int:
        """Return the energy that the device drew between two times, rounded down to uJ."""
        pj = self.energy_pj(device, until_ns, scope=scope) - self.energy_pj(device, from_ns, scope=scope)
        return pj // PJ_PER_UJ

    def _window_pj(self, device: int, scope: Scope, k: int) -> int:
        spec = self._device(device)
        end = spec.phase_ns + k * spec.update_ns - spec.lag_ns - spec.settle_ns
        return self.energy_pj(device, end, scope=scope) - self.energy_pj(device, end - spec.window_ns, scope=scope)

    def _shown_mw(self, device: int, pj: int, ns: int) -> int:
        spec = self._device(device)
        mw = (2 * pj * spec.gain_ppm + ns * PPM) // (2 * ns * PPM) + spec.offset_mw
        mw = max(0, mw)
        return mw - mw % spec.resolution_mw

    def _update(self, device: int, t: int) -> int:
        spec = self._device(device)
        return (t - spec.phase_ns) // spec.update_ns

    def update_time_ns(self, device: int, t: int) -> int:
        """Return the time of the sensor update whose value is shown at ``t``."""
        spec = self._device(device)
        return spec.phase_ns + self._update(device, t) * spec.update_ns

    def instant_mw(self, device: int, t: int, *, scope: Scope = "gpu") -> int:
        """Return the value of field 186 (instant power) at ``t``."""
        window = self._window_pj(device, scope, self._update(device, t))
        return self._shown_mw(device, window, self._device(device).window_ns)

    def average_mw(self, device: int, t: int, *, scope: Scope = "gpu") -> int:
        """Return the value of field 185 (average power) at ``t``: the mean of the last second's windows."""
        spec, k = self._device(device), self._update(device, t)
        pj = sum(self._window_pj(device, scope, k - j) for j in range(spec.average_samples))
        return self._shown_mw(device, pj, spec.window_ns * spec.average_samples)

    def power_usage_mw(self, device: int, t: int) -> int:
        """Return the value of nvmlDeviceGetPowerUsage at ``t``."""
        average = self._device(device).usage_is_average
        return self.average_mw(device, t) if average else self.instant_mw(device, t)

    def counter_update_time_ns(self, device: int, t: int) -> int:
        """Return the time of the counter update whose value is shown at ``t``."""
        spec = self._device(device)
        if spec.counter_mode == COUNTER_MODES["part_time"]:
            return self.update_time_ns(device, t)
        phase, period = spec.counter_phase_ns, spec.counter_update_ns
        return phase + (t - phase) // period * period

    def _counted_pj(self, device: int, scope: Scope, t: int) -> int:
        spec, t = self._device(device), max(0, t)
        if spec.counter_mode == COUNTER_MODES["part_time"]:
            first, last = self._update(device, 0), self._update(device, t)
            pj = sum(self._window_pj(device, scope, k) for k in range(first + 1, last + 1))
            scaled_pj = pj * spec.update_ns * spec.gain_ppm // (spec.window_ns * PPM)
            return scaled_pj + spec.offset_mw * (last - first) * spec.update_ns
        delay_ns = spec.counter_lag_ns + spec.settle_ns
        start = self.counter_update_time_ns(device, 0) - delay_ns
        end = self.counter_update_time_ns(device, t) - delay_ns
        pj = self.energy_pj(device, end, scope=scope) - self.energy_pj(device, start, scope=scope)
        return pj * spec.gain_ppm // PPM + spec.offset_mw * (end - start)

    def counter_mj(self, device: int, t: int, *, scope: Scope | None = None) -> int | None:
        """Return the energy counter at ``t``, resets and freezes included; None without a counter."""
        spec = self._device(device)
        if spec.counter_mode == COUNTER_MODES["missing"]:
            return None
        scope = scope or ("module" if spec.counter_module else "gpu")
        counted_pj, since, until = spec.counter_start_mj * PJ_PER_MJ, 0, t
        for fault in self.compiled.faults:
            if fault.from_ns > until or fault.device not in {-1, device}:
                continue
            if fault.kind is FaultKind.COUNTER_RESET:
                counted_pj, since = 0, max(since, fault.from_ns)
            elif fault.kind is FaultKind.COUNTER_FREEZE and t < fault.until_ns:
                until = fault.from_ns
            elif fault.kind is FaultKind.COUNTER_FREEZE and fault.code:
                counted_pj += self._counted_pj(device, scope, fault.from_ns) - self._counted_pj(device, scope, since)
                since = fault.until_ns
        counted_pj += self._counted_pj(device, scope, until) - self._counted_pj(device, scope, since)
        mj = counted_pj // PJ_PER_MJ
        return mj - mj % spec.counter_resolution_mj
