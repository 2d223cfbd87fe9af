"""NVIDIA GPUs through NVML: which devices there are, and reading them."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from costtrace.core import clock
from costtrace.core.events import DeviceSeen, Reading
from costtrace.core.units import NS_PER_S
from costtrace.sensors.energy_count import gain_of
from costtrace.sensors.nvml.board import GpuBoard
from costtrace.sensors.nvml.library import NvmlFault, NvmlLibrary
from costtrace.sensors.nvml.mig import instances_of
from costtrace.sensors.nvml.simulated import is_simulated
from costtrace.sensors.sensor import Clocks, Notice

DETAILS_NS = 10 * NS_PER_S
PATIENCE_NS = 10 * NS_PER_S
"""A device whose way of being read has failed for this long is asked again what it offers."""
SHORTEST_RETRY_NS = 2 * NS_PER_S
LONGEST_RETRY_NS = 60 * NS_PER_S
RESCAN_NS = 300 * NS_PER_S
"""NVML lists new devices only when it is started again. That is harmless where the driver keeps all devices awake."""
_HARMLESS = frozenset({"library", "driver"})


def device_files() -> tuple[str, ...]:
    """What of the file system changes when a GPU comes or goes. Asks no driver."""
    found = [entry.name for entry in Path("/dev").glob("nvidia[0-9]*")]
    for directory in ("/proc/driver/nvidia/gpus", "/proc/driver/nvidia/capabilities/mig"):
        if os.path.isdir(directory):  # noqa: PTH112, RUF100 - no exception where it is forbidden
            found += [entry.name for entry in Path(directory).iterdir()]
    return tuple(sorted(found))


class NvmlSensor:
    """All NVIDIA devices of the host that this process may see."""

    def __init__(
        self,
        gains: Mapping[str, str] | None = None,
        *,
        mig_rule: str = "slices",
        clocks: Clocks = clock.anchor,
        wanted: bool = True,
        files: Callable[[], tuple[str, ...]] = device_files,
        rescan_ns: int = RESCAN_NS,
        library: NvmlLibrary | None = None,
    ) -> None:
        """Open nothing yet. *wanted*: somebody asked for NVML, so its absence is worth a notice."""
        self._library = library or NvmlLibrary()
        self._gains = gains or {}
        self._mig_rule = mig_rule
        self._clocks = clocks
        self._wanted = wanted
        self._files = files
        self._rescan_ns = rescan_ns
        self._boards: dict[str, GpuBoard] = {}
        self._owners: dict[str, str] = {}
        """UUID of each device and instance -> the board to read."""
        self._known: tuple[DeviceSeen, ...] = ()
        self._notices: list[Notice] = []
        self._open = False
        self._simulated = False
        self._awake = False
        self._listed: tuple[str, ...] = ()
        self._retry_ns = SHORTEST_RETRY_NS
        self._scan_due_ns = 0
        self._details_due: dict[str, int] = {}

    @property
    def calls(self) -> int:
        """Calls of NVML so far."""
        return self._library.calls

    def open(self) -> None:
        """Load NVML and look for devices."""
        now_ns = self._clocks().monotonic_ns
        self._listed = self._files()
        try:
            self._library.start()
            self._open = True
            self._scan()
        except NvmlFault as fault:
            self._shut(fault)
        retry = not self._open or any(board.away for board in self._boards.values())
        self._scan_due_ns = now_ns + (self._retry_ns if retry else self._rescan_ns)
        self._retry_ns = min(LONGEST_RETRY_NS, 2 * self._retry_ns) if retry else SHORTEST_RETRY_NS
        self._tell()

    def read(self, devices: Collection[str] | None = None) -> list[Reading]:
        """Read these devices now: one call of NVML each, where the driver has field values."""
        if devices is None:
            boards = list(self._boards.values())
        else:
            boards = [self._boards[uuid] for uuid in dict.fromkeys(map(self._owners.get, devices)) if uuid]
        readings: list[Reading] = []
        for board in boards:
            was_away = board.away
            readings += board.read()
            if board.away and not was_away:
                self._say_lost(board)
        return readings

    def upkeep(self) -> None:
        """Look for devices where that is due; renew the details of at most one."""
        now_ns = self._clocks().monotonic_ns
        if now_ns >= self._scan_due_ns:
            listed = self._files()
            away = not self._open or any(board.away for board in self._boards.values())
            if away or listed != self._listed or self._awake:
                self._reopen()
            else:
                self._scan_due_ns = now_ns + self._rescan_ns
            return
        for uuid, board in self._boards.items():
            if board.away:
                continue
            if board.failing_since_ns and now_ns - board.failing_since_ns > PATIENCE_NS:
                self._ask_again(board)
                return
            if now_ns >= self._details_due.get(uuid, 0):
                self._details_due[uuid] = now_ns + DETAILS_NS
                board.about = replace(board.about, details=board.details())
                board.look(now_ns)
                self._tell()
                return

    def devices(self) -> Sequence[DeviceSeen]:
        """All devices that were ever seen, and the instances of those in MIG mode."""
        return self._known

    def take_notices(self) -> list[Notice]:
        """What an operator has to know."""
        notices, self._notices = self._notices, []
        return notices

    def close(self) -> None:
        """Let go of the driver."""
        self._open = False
        self._library.stop()

    # -- devices that come and go --------------------------------------------------------------------------------

    def _reopen(self) -> None:
        self._library.stop()
        self._open = False
        self.open()

    def _scan(self) -> None:
        """Ask for all devices. Raises NvmlFault where NVML does not answer at all."""
        version = self._library.attempt("nvmlSystemGetDriverVersion")
        self._simulated = version is not None and is_simulated(version)
        found: set[str] = set()
        awake = True
        for index in range(int(self._library.call("nvmlDeviceGetCount"))):
            try:
                handle = self._library.call("nvmlDeviceGetHandleByIndex", index)
                uuid = str(self._library.call("nvmlDeviceGetUUID", handle))
                self._bind(handle, uuid, index)
                found.add(uuid)
                awake = awake and self._library.attempt("nvmlDeviceGetPersistenceMode", handle) == 1
            except NvmlFault as fault:
                self._say(f"NVML device {index} cannot be read: {fault}. Its energy is unknown. {_remedy(fault.word)}")
        for uuid, board in self._boards.items():
            if uuid not in found:
                if not board.away:
                    self._say(
                        f"{_named(board.about)} is not listed by NVML any more: its energy is unknown from now on."
                    )
                board.lose(board.away or "gone")
        self._awake = awake and bool(found)
        self._owners = dict(self._owned())

    def _bind(self, handle: object, uuid: str, index: int) -> None:
        instances = instances_of(self._library, handle, uuid, self._mig_rule, simulated=self._simulated)
        board = self._boards.get(uuid)
        if board is not None:
            was_away = board.away
            board.bind(handle, index, instances)
            if was_away:
                self._say(f"{_named(board.about)} can be read again. What it drew in between is unknown.")
            return
        name = str(self._library.attempt("nvmlDeviceGetName", handle) or "NVIDIA GPU")
        gain = gain_of(self._gains, uuid, name)
        about = DeviceSeen(uuid, 0, name, "gpu", "gpu", "none", simulated=self._simulated, gain=gain.text)
        board = GpuBoard(self._library, about, gain, self._clocks)
        board.bind(handle, index, instances)
        if self._boards and self._known:
            self._say(f"{_named(about)} has appeared: its energy is read from now on.")
        self._boards[uuid] = board
        for text in _peculiarities(board):
            self._say(text)

    def _ask_again(self, board: GpuBoard) -> None:
        handle = self._library.attempt("nvmlDeviceGetHandleByUUID", board.about.uuid)
        try:
            if handle is not None:
                self._bind(handle, board.about.uuid, board.about.index)
        except NvmlFault:
            pass
        board.failing_since_ns = self._clocks().monotonic_ns if board.failing_since_ns else 0
        self._tell()

    def _owned(self) -> Iterator[tuple[str, str]]:
        for uuid, board in self._boards.items():
            yield uuid, uuid
            for instance in board.instances:
                yield instance.uuid, uuid

    def _tell(self) -> None:
        self._known = tuple(each for board in self._boards.values() for each in (board.about, *board.instances))

    def _shut(self, fault: NvmlFault) -> None:
        """NVML does not answer: there are no devices, and those there were cannot be read."""
        self._library.stop()
        self._open = False
        for board in self._boards.values():
            board.lose("driver")
        if self._wanted or self._boards or fault.word not in _HARMLESS:
            self._say(f"NVML cannot be used: {fault}. GPU energy is unknown, not 0. {_remedy(fault.word)}")

    def _say_lost(self, board: GpuBoard) -> None:
        now_ns = self._clocks().monotonic_ns
        self._scan_due_ns = min(self._scan_due_ns, now_ns + self._retry_ns)
        self._say(
            f"{_named(board.about)} cannot be read ({board.away}): its energy is unknown, not 0, until it can be "
            f"again. {_remedy(board.away)}"
        )

    def _say(self, text: str) -> None:
        self._notices.append(("sensor", text.strip()))


def _named(device: DeviceSeen) -> str:
    return f"{device.name} ({device.uuid})"


def _remedy(word: str) -> str:
    return {
        "library": "On a host with NVIDIA GPUs install the driver and nvidia-ml-py where the agent runs; in a "
        "container set NVIDIA_DRIVER_CAPABILITIES to include `utility`.",
        "driver": "Load the NVIDIA driver (`nvidia-smi` must work where the agent runs); the agent looks again by "
        "itself.",
        "denied": "Let the agent's user or container read the GPU: its device files, and no cgroup rule against them.",
        "lost": "See the kernel's log for Xid messages; the GPU needs a reset or the host a restart.",
    }.get(word, "")


def _peculiarities(board: GpuBoard) -> Iterator[str]:
    """What somebody who reads a device's energy has to know, said once."""
    about = board.about
    if about.simulated:
        yield f"{_named(about)} is SIMULATED: the NVML in use is costtrace's double. No joule of it is real."
    if about.source == "none":
        yield f"{_named(about)} offers neither an energy counter nor its power: its energy is unknown."
    if about.source == "power_integral":
        yield (
            f"{_named(about)} has no energy counter: its energy is integrated from samples of its power "
            "(`power_integral`), which misses what happens between them."
        )
    if about.scope == "module":
        yield (
            f"{_named(about)}: its energy counter is that of the whole module, CPU and memory included (scope "
            "`module`). It is not comparable with that of a GPU alone."
        )
    if board.instances:
        yield (
            f"{_named(about)} is shared by {len(board.instances)} MIG instances. NVML meters the board only: each "
            "instance is given a part by rule (scope `board_shared_by_mig`), which is an estimate."
        )
