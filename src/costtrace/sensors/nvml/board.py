"""One NVIDIA device: finding out how its energy can be read, and reading it."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from msgspec.structs import replace

from costtrace.core.events import DeviceSeen, Reading
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.sensors.energy_count import BREAKS, FROZEN_NS, Counted, CounterTrack, Gain, PowerTrack, Shares
from costtrace.sensors.nvml.binding import (
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
"""A driver's timestamp that is older than this, or in the future, is of another clock, and not used."""
FUTURE_NS = 5 * NS_PER_MS
AWAY_NS = NS_PER_S
"""A device that is away gives a reading without energy this often."""
FRESH_NS = NS_PER_MS
"""A timestamp this close to the read is the read's own, and shows nothing of the sensor's update."""
APART_MJ = 1_000
"""Two counters that differ by more are different counters."""
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

    def power_source(self) -> str:
        """How power is read, as text."""
        if self.power:
            return "field 186 (instant)"
        return "nvmlDeviceGetPowerUsage (a mean over 1 s on most architectures since Ampere)" if self.usage else "none"


class _Answer(NamedTuple):
    """What the driver answered to one round of questions."""

    energy: Field
    power_mw: int | None
    power_fault: str
    power_stamp_us: int


def probe(library: NvmlLibrary, handle: object) -> Ways:
    """Find out what a device offers. Raises: NvmlFault (it cannot be asked at all)."""
    try:
        fields = dict(zip(_PROBED, library.fields(handle, _PROBED), strict=True))
    except NvmlFault as fault:
        if fault.word != "not_supported":  # an old driver without field values is asked by other calls
            raise
        fields = {}
    values = {which: field.value for which, field in fields.items() if field.value is not None}
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
    """Which counter to read, as a field. On a superchip the GPU's may be that of the whole module."""
    gpu, whole = values.get((ENERGY, SCOPE_GPU)), values.get((ENERGY, SCOPE_MODULE))
    if module and whole is not None and (gpu is None or whole - gpu <= APART_MJ):
        return (ENERGY, SCOPE_MODULE)
    return next((which for which in ((ENERGY, SCOPE_GPU), (TOTAL_ENERGY, SCOPE_GPU)) if which in values), None)


class GpuBoard:
    """One device, with its MIG instances if it has any. For one thread. Only `bind` raises: NvmlFault."""

    def __init__(self, library: NvmlLibrary, device: DeviceSeen, gain: Gain, clocks: Clocks) -> None:
        self.device = device
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
        self._restarted = False
        self._last_ns = -1
        self._last_seen: tuple[int, int | None] = (-1, None)

    def bind(self, handle: object, index: int, instances: tuple[DeviceSeen, ...]) -> None:
        """Use this handle from now on: at first, and whenever NVML has been started again. Raises: NvmlFault."""
        ways = probe(self._library, handle)
        first, self._handle = self._handle is None, handle
        if ways != self._ways:
            if ways[:3] != self._ways[:3]:
                # At first a driver's counter goes on from what an agent before this one read; later it is a new count.
                self._counter, self._power = CounterTrack(self._gain), PowerTrack(self._gain)
                self._restarted = not first
                self._period = PeriodFinder()
            self._ways = ways
        parts = {instance.uuid: Fraction(instance.share) for instance in instances}
        if parts != {instance.uuid: Fraction(instance.share) for instance in self.instances}:
            self._shares = Shares(parts) if parts else None
            self._restarted = self._restarted or not first
        self.away = ""
        self.failing_since_ns = 0
        self.device = replace(self.device, index=index, source=ways.source, scope=ways.scope)
        self.instances = tuple(replace(instance, source=ways.source) for instance in instances)

    def lose(self, fault: str) -> None:
        """The device (or NVML) is not there any more, for this reason."""
        self.away = fault
        self._fail(fault)

    def read(self) -> list[Reading]:
        """Read the device and its instances now. Empty if the driver has nothing new."""
        if self.away:
            now_ns = self._clocks().monotonic_ns
            if now_ns - self._last_ns < AWAY_NS:
                return []
            self._last_ns = now_ns
            return self._all(now_ns, Counted(None, self.away), None)
        try:
            answer = self._ask()
        except NvmlFault as error:
            return self._failed(error.word)
        now = self._clocks()
        stamp_us = answer.energy.stamp_us if self._ways.source == "nvml_counter" else answer.power_stamp_us
        at_ns = now.monotonic(stamp_us * 1_000) if stamp_us else 0
        if not now.monotonic_ns - OLDEST_STAMP_NS <= at_ns <= now.monotonic_ns + FUTURE_NS:
            at_ns, stamp_us = now.monotonic_ns, 0
        at_ns = min(at_ns, now.monotonic_ns)
        fault = answer.energy.fault if self._ways.source == "nvml_counter" else answer.power_fault
        if fault:
            return self._failed(fault, answer.power_mw)
        return self._new(at_ns, now.monotonic_ns, stamp_us, answer)

    def look(self, now_ns: int) -> None:
        """Search for the sensor's period, where that is due."""
        if self._period.due(now_ns):
            self._period.look(now_ns)

    def details(self) -> dict[str, str]:
        """`DeviceSeen.details`: what changes slowly. One call of NVML each."""
        ask, handle = self._library.attempt, self._handle
        numbers = {
            "power_limit_mw": ask("nvmlDeviceGetEnforcedPowerLimit", handle),
            "default_power_limit_mw": ask("nvmlDeviceGetPowerManagementDefaultLimit", handle),
            "sm_clock_mhz": ask("nvmlDeviceGetClockInfo", handle, 1),
            "memory_clock_mhz": ask("nvmlDeviceGetClockInfo", handle, 2),
        }
        details = {name: str(value) for name, value in numbers.items() if value is not None}
        reasons = ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if reasons is None:  # its name before driver 535
            reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        if reasons is not None:
            details["throttle"] = throttle(int(reasons))
        return {**details, "power": self._ways.power_source()}

    def _ask(self) -> _Answer:
        """Ask the driver for energy and power: in one call, if it has field values."""
        ways, library, handle = self._ways, self._library, self._handle
        if ways.source == "none":
            raise NvmlFault("not_supported", "neither energy nor power can be read")
        wanted = [field for field in (ways.energy, ways.power) if field is not None]
        fields = dict(zip(wanted, library.fields(handle, wanted), strict=True)) if wanted else {}
        if ways.energy is not None:
            energy = fields[ways.energy]
        elif ways.source == "nvml_counter":
            energy = Field(int(library.call("nvmlDeviceGetTotalEnergyConsumption", handle)), 0)
        else:
            energy = Field(None, 0)
        power, fault, stamp_us = None, "", 0
        if ways.power is not None:
            power, stamp_us, fault = fields[ways.power]
        elif ways.usage and ways.source == "power_integral":
            power = int(library.call("nvmlDeviceGetPowerUsage", handle))
        elif ways.usage:
            power = library.attempt("nvmlDeviceGetPowerUsage", handle)
        if power == 0:  # a device that answers draws some power
            power, fault = None, "error"
        return _Answer(energy, power, fault, stamp_us)

    def _new(self, at_ns: int, now_ns: int, stamp_us: int, answer: _Answer) -> list[Reading]:
        counts = self._ways.source == "nvml_counter"
        value = answer.energy.value if counts else answer.power_mw
        assert value is not None  # without a fault there is a value
        if (stamp_us, value) == self._last_seen and stamp_us:
            if now_ns - self._last_ns <= FROZEN_NS:
                return []  # the driver shows the same update again
            at_ns = now_ns
        elif at_ns <= self._last_ns:
            at_ns = now_ns
        driver_ns = at_ns
        if counts and now_ns - at_ns <= FRESH_NS and value != self._last_seen[1]:
            updated_ns = self._period.updated(at_ns)
            if updated_ns is None:
                self._period.see(driver_ns, now_ns, value)
                return []  # the next value counts this energy too
            at_ns = max(updated_ns, self._last_ns + 1)
        self._period.see(driver_ns, now_ns, value)
        self._last_seen, self._last_ns = (stamp_us, value), at_ns
        self.failing_since_ns = 0
        if counts:
            counted = self._counter.take(at_ns, value * UJ_PER_MJ, answer.power_mw)
        else:
            counted = self._power.take(at_ns, value)
        lag_ns = now_ns - at_ns
        return self._all(at_ns, counted, answer.power_mw, lag_ns if lag_ns > FRESH_NS else 0)

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
        if counted.energy_uj is not None and self._restarted:
            counted, self._restarted = counted._replace(fault="reset"), False
        device = self.device
        reading = Reading(
            device.uuid,
            at_ns,
            counted.energy_uj,
            None if power_mw is None else self._gain.power(power_mw),
            device.source,
            device.scope,
            counted.fault,
            gain=self._gain.text,
            simulated=device.simulated,
            period_ns=self._period.period_ns,
            lag_ns=lag_ns,
        )
        return [reading, *self._split(reading)] if self.instances else [reading]

    def _split(self, board: Reading) -> list[Reading]:
        """The reading of each instance: its part of the board's energy. Its power is unknown."""
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
    """The reasons why clocks are not at their highest: NVML's bit mask as text."""
    return ", ".join(name for bit, name in enumerate(_THROTTLE) if reasons >> bit & 1)
