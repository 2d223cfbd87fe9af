"""The host's CPU packages through RAPL, as Linux shows it in /sys/class/powercap (Intel and AMD).

Package domains only, summed: ``core``, ``uncore`` and ``dram`` are in them or not the CPU's, and ``psys`` is the whole
platform. Dies of one package that show one and the same counter, as on some AMD processors, count once. The sum is the
energy of the device ``CPU-<host>``: the stand-in of a host without a GPU, or the host's CPUs beside its GPUs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from costtrace.core import clock, device_names
from costtrace.core.events import DeviceSeen, Reading
from costtrace.core.units import NS_PER_S
from costtrace.sensors.energy_count import RESET, gain_of
from costtrace.sensors.sensor import Clocks, Notice

POWERCAP = Path("/sys/class/powercap")
HIGHEST_W = 1_000
"""No package draws more. A gap in which a counter could have wrapped around at this power is not bridged."""
RETRY_NS = 60 * NS_PER_S
_REMEDY = (
    "Reading it needs root since Linux 5.10: run the agent as root or with CAP_DAC_READ_SEARCH, or let its group read "
    "/sys/class/powercap/*/energy_uj (a udev rule or tmpfiles.d)."
)


@dataclass(slots=True)
class _Domain:
    path: Path
    name: str
    range_uj: int
    last_uj: int = -1


@dataclass(slots=True)
class _Package:
    name: str
    dies: list[_Domain]
    same: bool = False
    """Whether its dies showed one counter when they were read last."""
    noticed: bool = False


class RaplSensor:
    """The energy of the host's CPU packages, as one device."""

    def __init__(
        self,
        gains: Mapping[str, str] | None = None,
        *,
        clocks: Clocks = clock.anchor,
        root: Path = POWERCAP,
        wanted: bool = True,
    ) -> None:
        """Opens nothing. *wanted*: the setting asks for RAPL by name, so its absence is worth a notice."""
        self.calls = 0
        host, name = clock.host_name(), device_names.cpu_name()
        uuid = f"CPU-{host}"
        self._gain = gain_of(gains or {}, uuid, name)
        self._device = DeviceSeen(uuid, 0, name, "cpu", "package", "rapl", gain=self._gain.text)
        self._clocks = clocks
        self._root = root
        self._wanted = wanted
        self._packages: list[_Package] = []
        self._total_uj = 0
        self._last_ns = -1
        self._due_ns = 0
        self._last_notice = ""
        self._notices: list[Notice] = []

    def open(self) -> None:
        """Look for packages whose counter can be read."""
        self._due_ns = self._clocks().monotonic_ns + RETRY_NS
        packages = _packages(self._root)
        if not packages:
            if self._wanted:
                self._notice(
                    f"{self._root} shows no CPU package (a virtual machine, or a kernel without powercap): the "
                    "energy of the CPUs is unknown, not 0."
                )
            return
        try:
            for package in packages:
                self._values(package)
        except PermissionError as error:
            # Also where it is not *wanted*: an operator can remedy this case.
            self._notice(f"the energy of the CPUs is unknown: {error.filename} cannot be read. {_REMEDY}")
        except (OSError, ValueError) as error:
            self._notice(f"the energy of the CPUs is unknown: {error}.")
        else:
            self._packages = packages

    def read(self, devices: Collection[str] | None = None) -> list[Reading]:
        """Read all packages, now."""
        if not self._packages or (devices is not None and self._device.uuid not in devices):
            return []
        before_ns = self._clocks().monotonic_ns
        try:
            values = [self._values(package) for package in self._packages]
        except (OSError, ValueError) as error:
            return [self._failed(error)]
        now_ns = self._clocks().monotonic_ns
        at_ns = (before_ns + now_ns) // 2
        fault = "" if self._continues(at_ns) else RESET
        for package, values_uj in zip(self._packages, values, strict=True):
            moved_uj = self._moved(package, *values_uj)
            if not fault:
                self._total_uj += moved_uj
        self._last_ns = at_ns
        return [self._reading(at_ns, self._gain.energy(self._total_uj), fault)]

    def upkeep(self) -> None:
        """Look again every `RETRY_NS` while there is nothing."""
        if not self._packages and self._clocks().monotonic_ns >= self._due_ns:
            self.open()

    def devices(self) -> Sequence[DeviceSeen]:
        """The host's CPUs, where they can be read."""
        return (self._device,) if self._packages else ()

    def take_notices(self) -> list[Notice]:
        """Notices since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def close(self) -> None:
        """Nothing is held open."""

    def _value(self, domain: _Domain) -> int:
        self.calls += 1
        value = int((domain.path / "energy_uj").read_text(encoding="ascii"))
        if not 0 <= value <= domain.range_uj:
            raise ValueError(f"{domain.path}/energy_uj shows {value}, beyond its range of {domain.range_uj}")
        return value

    def _values(self, package: _Package) -> tuple[list[int], bool]:
        """The counters of its dies (uJ), and whether they are one: each lies between two readings of the first."""
        values_uj = [self._value(die) for die in package.dies]
        first, size = values_uj[0], package.dies[0].range_uj + 1
        if len(values_uj) == 1:
            return values_uj, False
        span_uj = (self._value(package.dies[0]) - first) % size
        pairs = zip(package.dies, values_uj, strict=True)
        return values_uj, all(die.range_uj + 1 == size and (uj - first) % size <= span_uj for die, uj in pairs)

    def _moved(self, package: _Package, values_uj: list[int], same: bool) -> int:  # noqa: FBT001 - of `_values`
        """What it used since the last reading; once, where its dies were one counter then and are now."""
        moved_uj = 0
        for die, value_uj in zip(package.dies, values_uj, strict=True):
            if die is package.dies[0] or not (same and package.same):
                moved_uj += (value_uj - die.last_uj) % (die.range_uj + 1)
            die.last_uj = value_uj
        if same and package.same and moved_uj and not package.noticed:
            package.noticed = True
            self._notice(f"{package.name} shows one counter under {len(values_uj)} names: it is counted once.")
        package.same = same
        return moved_uj

    def _continues(self, at_ns: int) -> bool:
        if self._last_ns < 0:
            return False
        most_uj = (at_ns - self._last_ns) * HIGHEST_W // 1_000
        return all(most_uj <= die.range_uj for package in self._packages for die in package.dies)

    def _failed(self, error: Exception) -> Reading:
        self._last_ns = -1
        denied = isinstance(error, PermissionError)
        self._notice(f"the energy of the CPUs is unknown for now: {error}.{f' {_REMEDY}' if denied else ''}")
        return self._reading(self._clocks().monotonic_ns, None, "denied" if denied else "error")

    def _reading(self, at_ns: int, energy_uj: int | None, fault: str) -> Reading:
        device = self._device
        return Reading(device.uuid, at_ns, energy_uj, None, "rapl", "package", fault, gain=device.gain)

    def _notice(self, message: str) -> None:
        if message != self._last_notice:
            self._last_notice = message
            self._notices.append(("sensor", message))


def _packages(root: Path) -> list[_Package]:
    """Every package once: some kernels show one both by MSR and by MMIO (there without its dies); MSR is preferred."""
    found: dict[tuple[bool, str], dict[str, _Domain]] = {}
    for path in sorted(root.glob("*-rapl*:*")):
        try:
            name = (path / "name").read_text(encoding="ascii").strip()
            range_uj = int((path / "max_energy_range_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if name.startswith("package-") and range_uj > 0:
            dies = found.setdefault(("mmio" in path.name, name.partition("-die-")[0]), {})
            dies.setdefault(name, _Domain(path, name, range_uj))
    chosen = {name: dies for (_, name), dies in sorted(found.items(), key=lambda entry: not entry[0][0])}
    return [_Package(name, list(dies.values())) for name, dies in chosen.items()]
