"""One NVIDIA device: how its energy can be read, and reading it."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from msgspec.structs import replace

from costtrace.core.events import DeviceSeen, Reading
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.sensors.energy_count import BREAKS, FROZEN_NS, Counted, CounterTrack, Gain, PowerTrack, Shares
from costtrace.sensors.nvml.library import (
    ENERGY,
    POWER_INSTANT,
    SCOPE_GPU,
    SCOPE_MODULE,
    TOTAL_ENERGY,
    Field,
    NvmlFault,
    NvmlLibrary,
)
from costtrace.sensors.sensor import Clocks
from costtrace.sensors.sensor_period import PeriodFinder

UJ_PER_MJ = 1_000
OLDEST_STAMP_NS = 2 * NS_PER_S
"""A driver's timestamp that is older than this, or lies in the future, is of another clock than ours."""
FUTURE_NS = 5 * NS_PER_MS
AWAY_NS = NS_PER_S
"""A device that is not there says so this often."""
FRESH_NS = NS_PER_MS
"""A timestamp this close to the read is that of the read, and tells nothing about the sensor's update."""
APART_MJ = 1_000
"""Two counters that differ by more are not the same counter."""
_PROBED = (
    (ENERGY, SCOPE_GPU),
    (ENERGY, SCOPE_MODULE),
    (TOTAL_ENERGY, SCOPE_GPU),
    (POWER_INSTANT, SCOPE_GPU),
    (POWER_INSTANT, SCOPE_MODULE),
)


class Ways(NamedTuple):
    """How a device's energy and power are read. A field is (id, scope)."""

    source: str
    scope: str = "gpu"
    energy: tuple[int, int] | None = None
    """None with a counter: by nvmlDeviceGetTotalEnergyConsumption."""
    power: tuple[int, int] | None = None
    usage: bool = False
    """Power by nvmlDeviceGetPowerUsage, which is a mean over 1 s on most architectures since Ampere."""

    def told(self) -> str:
        """For people: how power is read."""
        if self.power:
            return "field 186 (instant)"
        return "nvmlDeviceGetPowerUsage (a mean over 1 s on most architectures since Ampere)" if self.usage else "none"


class _Shown(NamedTuple):
    energy: Field
    power_mw: int | None
    power_fault: str
    power_stamp_us: int


def probe(library: NvmlLibrary, handle: object) -> Ways:
    """Find out what a device offers. Raises NvmlFault where it cannot be asked at all."""
    try:
        found = dict(zip(_PROBED, library.fields(handle, _PROBED), strict=True))
    except NvmlFault as fault:
        if fault.word != "not_supported":  # an old driver without fields is asked by other calls
            raise
        found = {}
    values = {which: field.value for which, field in found.items() if field.value is not None}
    module = (POWER_INSTANT, SCOPE_MODULE) in values or (ENERGY, SCOPE_MODULE) in values
    energy = _counter(values, module=module)
    counts = energy is not None or library.attempt("nvmlDeviceGetTotalEnergyConsumption", handle) is not None
    of_gpu = not module or (energy == (ENERGY, SCOPE_GPU) and (ENERGY, SCOPE_MODULE) in values)
    scope = "gpu" if of_gpu else "module"
    wanted = (POWER_INSTANT, SCOPE_GPU if of_gpu or not counts else SCOPE_MODULE)
    power = wanted if wanted in values else None
    usage = power is None and library.attempt("nvmlDeviceGetPowerUsage", handle) is not None
    if counts:
        return Ways("nvml_counter", scope, energy, power, usage)
    return Ways("power_integral" if power or usage else "none", "gpu", None, power, usage)


def _counter(values: Mapping[tuple[int, int], int], *, module: bool) -> tuple[int, int] | None:
    """Which counter to read, as a field. On a superchip the plain one may be that of the whole module."""
    ours, whole = values.get((ENERGY, SCOPE_GPU)), values.get((ENERGY, SCOPE_MODULE))
    if module and whole is not None and (ours is None or whole - ours <= APART_MJ):
        return (ENERGY, SCOPE_MODULE)
    return next((which for which in ((ENERGY, SCOPE_GPU), (TOTAL_ENERGY, SCOPE_GPU)) if which in values), None)


class GpuBoard:
    """One device, with its MIG instances if it has any. Read by one thread; raises nothing but from `bind`."""

    def __init__(self, library: NvmlLibrary, about: DeviceSeen, gain: Gain, clocks: Clocks) -> None:
        self.about = about
        self.instances: tuple[DeviceSeen, ...] = ()
        self.away = ""
        """Why it cannot be read at all (``lost``, ``gone``, ``driver``)."""
        self.failing_since_ns = 0
        self._library = library
        self._clocks = clocks
        self._gain = gain
        self._handle: Any = None
        self._ways = Ways("none")
        self._counter = CounterTrack(gain)
        self._power = PowerTrack(gain)
        self._period = PeriodFinder()
        self._shares: Shares | None = None
        self._anew = False
        self._last_ns = -1
        self._last_seen: tuple[int, int | None] = (-1, None)

    def bind(self, handle: object, index: int, instances: tuple[DeviceSeen, ...]) -> None:
        """Go on with this handle: after the beginning, or when NVML has been started again. Raises NvmlFault."""
        ways = probe(self._library, handle)
        first, self._handle = self._handle is None, handle
        if ways != self._ways:
            if ways[:3] != self._ways[:3]:
                # A driver's counter goes on from where an agent before us read it; anything later is another count.
                self._counter, self._power, self._anew = CounterTrack(self._gain), PowerTrack(self._gain), not first
                self._period = PeriodFinder()
            self._ways = ways
        parts = {instance.uuid: Fraction(instance.share) for instance in instances}
        if parts != {instance.uuid: Fraction(instance.share) for instance in self.instances}:
            self._shares = Shares(parts) if parts else None
            self._anew = self._anew or not first
        self.away = ""
        self.failing_since_ns = 0
        self.about = replace(self.about, index=index, source=ways.source, scope=ways.scope)
        self.instances = tuple(replace(instance, source=ways.source) for instance in instances)

    def lose(self, fault: str) -> None:
        """It is not there any more (or NVML is not)."""
        self.away = fault
        self._fail(fault)

    def read(self) -> list[Reading]:
        """Readings of the device and of its instances, now; none if the driver has nothing new."""
        if self.away:
            now_ns = self._clocks().monotonic_ns
            if now_ns - self._last_ns < AWAY_NS:
                return []
            self._last_ns = now_ns
            return self._all(now_ns, Counted(None, self.away), None)
        try:
            shown = self._look()
        except NvmlFault as error:
            return self._failed(error.word)
        now = self._clocks()
        stamp_us = shown.energy.stamp_us if self._ways.source == "nvml_counter" else shown.power_stamp_us
        at_ns = now.monotonic(stamp_us * 1_000) if stamp_us else 0
        if not now.monotonic_ns - OLDEST_STAMP_NS <= at_ns <= now.monotonic_ns + FUTURE_NS:
            at_ns, stamp_us = now.monotonic_ns, 0
        at_ns = min(at_ns, now.monotonic_ns)
        fault = shown.energy.fault if self._ways.source == "nvml_counter" else shown.power_fault
        if fault:
            return self._failed(fault, shown.power_mw)
        return self._new(at_ns, now.monotonic_ns, stamp_us, shown)

    def look(self, now_ns: int) -> None:
        """Look how often the sensor renews its value, where that is due."""
        if self._period.due(now_ns):
            self._period.look(now_ns)

    def details(self) -> dict[str, str]:
        """What changes slowly, for people: one call each."""
        ask, handle = self._library.attempt, self._handle
        found = {
            "power_limit_mw": ask("nvmlDeviceGetEnforcedPowerLimit", handle),
            "default_power_limit_mw": ask("nvmlDeviceGetPowerManagementDefaultLimit", handle),
            "sm_clock_mhz": ask("nvmlDeviceGetClockInfo", handle, 1),
            "memory_clock_mhz": ask("nvmlDeviceGetClockInfo", handle, 2),
        }
        told = {name: str(value) for name, value in found.items() if value is not None}
        reasons = ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if reasons is None:  # the name before driver 535
            reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        if reasons is not None:
            told["throttle"] = throttle(int(reasons))
        return {**told, "power": self._ways.told()}

    def _look(self) -> _Shown:
        """Ask the driver: one call, where it has fields."""
        ways, library, handle = self._ways, self._library, self._handle
        if ways.source == "none":
            raise NvmlFault("not_supported", "neither energy nor power can be read")
        wanted = [field for field in (ways.energy, ways.power) if field is not None]
        shown = dict(zip(wanted, library.fields(handle, wanted), strict=True)) if wanted else {}
        if ways.energy is not None:
            energy = shown[ways.energy]
        elif ways.source == "nvml_counter":
            energy = Field(int(library.call("nvmlDeviceGetTotalEnergyConsumption", handle)), 0)
        else:
            energy = Field(None, 0)
        power, fault, stamp_us = None, "", 0
        if ways.power is not None:
            power, stamp_us, fault = shown[ways.power]
        elif ways.usage and ways.source == "power_integral":
            power = int(library.call("nvmlDeviceGetPowerUsage", handle))
        elif ways.usage:
            power = library.attempt("nvmlDeviceGetPowerUsage", handle)
        if power == 0:  # a device that answers draws something
            power, fault = None, "error"
        return _Shown(energy, power, fault, stamp_us)

    def _new(self, at_ns: int, now_ns: int, stamp_us: int, shown: _Shown) -> list[Reading]:
        counts = self._ways.source == "nvml_counter"
        value = shown.energy.value if counts else shown.power_mw
        assert value is not None  # or there had been a fault
        if (stamp_us, value) == self._last_seen and stamp_us:
            if now_ns - self._last_ns <= FROZEN_NS:
                return []  # the driver shows the same update again
            at_ns = now_ns
        elif at_ns <= self._last_ns:
            at_ns = now_ns
        told_ns = at_ns
        if counts and now_ns - at_ns <= FRESH_NS and value != self._last_seen[1]:
            updated_ns = self._period.updated(at_ns)
            if updated_ns is None:
                self._period.see(told_ns, now_ns, value)
                return []  # what was drawn is in the next value, too
            at_ns = max(updated_ns, self._last_ns + 1)
        self._period.see(told_ns, now_ns, value)
        self._last_seen, self._last_ns = (stamp_us, value), at_ns
        self.failing_since_ns = 0
        if counts:
            counted = self._counter.take(at_ns, value * UJ_PER_MJ, shown.power_mw)
        else:
            counted = self._power.take(at_ns, value)
        lag_ns = now_ns - at_ns
        return self._all(at_ns, counted, shown.power_mw, lag_ns if lag_ns > FRESH_NS else 0)

    def _failed(self, fault: str, power_mw: int | None = None) -> list[Reading]:
        now_ns = self._clocks().monotonic_ns
        self._fail(fault)
        if fault in BREAKS:
            self.away = fault
        self.failing_since_ns = self.failing_since_ns or now_ns
        self._last_ns = now_ns
        return self._all(now_ns, Counted(None, fault), power_mw)

    def _fail(self, fault: str) -> None:
        self._counter.fail(fault)
        self._power.fail(fault)
        self._period.forget()

    def _all(self, at_ns: int, counted: Counted, power_mw: int | None, lag_ns: int = 0) -> list[Reading]:
        if counted.energy_uj is not None and self._anew:
            counted, self._anew = counted._replace(fault="reset"), False
        about = self.about
        own = Reading(
            about.uuid,
            at_ns,
            counted.energy_uj,
            None if power_mw is None else self._gain.power(power_mw),
            about.source,
            about.scope,
            counted.fault,
            gain=self._gain.text,
            simulated=about.simulated,
            period_ns=self._period.period_ns,
            lag_ns=lag_ns,
        )
        return [own, *self._split(own)] if self.instances else [own]

    def _split(self, board: Reading) -> list[Reading]:
        """What each instance is given of the board's energy. Its power is not known, and not guessed."""
        shares: dict[str, int] = {}
        if board.energy_uj is not None and self._shares is not None:
            shares = self._shares.split(board.energy_uj)
        return [
            Reading(
                instance.uuid,
                board.at_ns,
                shares.get(instance.uuid),
                None,
                board.source,
                "board_shared_by_mig",
                board.fault,
                gain=board.gain,
                share=instance.share,
                simulated=board.simulated,
                period_ns=board.period_ns,
                lag_ns=board.lag_ns,
            )
            for instance in self.instances
        ]


_THROTTLE = (
    *("idle", "application clocks", "power cap", "hardware slowdown", "sync boost", "thermal slowdown"),
    *("hardware thermal slowdown", "power brake", "display clocks"),
)


def throttle(reasons: int) -> str:
    """Name the reasons why clocks are not at their highest."""
    return ", ".join(name for bit, name in enumerate(_THROTTLE) if reasons >> bit & 1)
