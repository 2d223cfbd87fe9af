"""NVIDIA GPUs through NVML: which devices a host has, which come and go, and reading them."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from costtrace.core import clock
from costtrace.core.events import DeviceSeen, Reading
from costtrace.core.units import NS_PER_S
from costtrace.sensors.energy_count import gain_of
from costtrace.sensors.nvml.binding import NvmlFault, NvmlLibrary, is_simulated
from costtrace.sensors.nvml.board import GpuBoard
from costtrace.sensors.nvml.mig import instances_of
from costtrace.sensors.sensor import Clocks, Notice

DETAILS_NS = 10 * NS_PER_S
PATIENCE_NS = 10 * NS_PER_S
"""A device that could not be read for this long is probed again."""
SHORTEST_RETRY_NS = 2 * NS_PER_S
LONGEST_RETRY_NS = 60 * NS_PER_S
RESCAN_NS = 300 * NS_PER_S
"""NVML lists new devices only after a restart, which is harmless if the driver keeps all devices awake."""
_HARMLESS = frozenset({"library", "driver"})
"""Faults that a host without NVIDIA GPUs has: no notice unless NVML is *wanted*."""


def device_files() -> tuple[str, ...]:
    """Names in the file system that change when a GPU comes or goes. Asks no driver."""
    names = [entry.name for entry in Path("/dev").glob("nvidia[0-9]*")]
    for directory in ("/proc/driver/nvidia/gpus", "/proc/driver/nvidia/capabilities/mig"):
        with contextlib.suppress(OSError):
            names += [entry.name for entry in Path(directory).iterdir()]
    return tuple(sorted(names))


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
        """Opens nothing. *wanted*: the setting asks for NVML by name, so its absence is worth a notice."""
        self._library = library or NvmlLibrary()
        self._gains = gains or {}
        self._mig_rule = mig_rule
        self._clocks = clocks
        self._wanted = wanted
        self._files = files
        self._rescan_ns = rescan_ns
        self._boards: dict[str, GpuBoard] = {}
        self._owners: dict[str, str] = {}
        """UUID of each device and instance -> UUID of the board to read."""
        self._devices: tuple[DeviceSeen, ...] = ()
        self._notices: list[Notice] = []
        self._open = False
        self._simulated = False
        self._all_awake = False
        self._files_seen: tuple[str, ...] = ()
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
        self._files_seen = self._files()
        try:
            self._library.start()
            self._open = True
            self._scan()
        except NvmlFault as fault:
            self._shut(fault)
        retry = not self._open or any(board.away for board in self._boards.values())
        self._scan_due_ns = now_ns + (self._retry_ns if retry else self._rescan_ns)
        self._retry_ns = min(LONGEST_RETRY_NS, 2 * self._retry_ns) if retry else SHORTEST_RETRY_NS
        self._publish()

    def read(self, devices: Collection[str] | None = None) -> list[Reading]:
        """Read these devices now: one call of NVML each, if the driver has field values."""
        if devices is None:
            boards = list(self._boards.values())
        else:
            boards = [self._boards[uuid] for uuid in dict.fromkeys(map(self._owners.get, devices)) if uuid]
        readings: list[Reading] = []
        for board in boards:
            was_away = board.away
            readings += board.read()
            if board.away and not was_away:
                self._report_lost(board)
        return readings

    def upkeep(self) -> None:
        """Look for devices if that is due; else renew the details of at most one."""
        now_ns = self._clocks().monotonic_ns
        if now_ns >= self._scan_due_ns:
            files = self._files()
            away = not self._open or any(board.away for board in self._boards.values())
            if away or files != self._files_seen or self._all_awake:
                self._reopen()
            else:
                self._scan_due_ns = now_ns + self._rescan_ns
            return
        for uuid, board in self._boards.items():
            if board.away:
                continue
            if board.failing_since_ns and now_ns - board.failing_since_ns > PATIENCE_NS:
                self._probe_again(board)
                return
            if now_ns >= self._details_due.get(uuid, 0):
                self._details_due[uuid] = now_ns + DETAILS_NS
                board.device = replace(board.device, details=board.details())
                board.look(now_ns)
                self._publish()
                return

    def devices(self) -> Sequence[DeviceSeen]:
        """All devices that this sensor has ever seen, and the instances of those in MIG mode."""
        return self._devices

    def take_notices(self) -> list[Notice]:
        """Notices since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def close(self) -> None:
        """Release the driver."""
        self._open = False
        self._library.stop()

    def _reopen(self) -> None:
        self._library.stop()
        self._open = False
        self.open()

    def _scan(self) -> None:
        """Find all devices. Raises: NvmlFault (NVML does not answer at all)."""
        version = self._library.attempt("nvmlSystemGetDriverVersion")
        self._simulated = version is not None and is_simulated(version)
        listed: set[str] = set()
        awake = True
        for index in range(int(self._library.call("nvmlDeviceGetCount"))):
            try:
                handle = self._library.call("nvmlDeviceGetHandleByIndex", index)
                uuid = str(self._library.call("nvmlDeviceGetUUID", handle))
                self._bind(handle, uuid, index)
                listed.add(uuid)
                awake = awake and self._library.attempt("nvmlDeviceGetPersistenceMode", handle) == 1
            except NvmlFault as fault:
                self._notice(
                    f"NVML device {index} cannot be read: {fault}. Its energy is unknown. {_remedy(fault.word)}"
                )
        for uuid, board in self._boards.items():
            if uuid not in listed:
                if not board.away:
                    self._notice(
                        f"{_named(board.device)} is not listed by NVML any more: its energy is unknown from now on."
                    )
                board.lose(board.away or "gone")
        self._all_awake = awake and bool(listed)
        self._owners = dict(self._owned())

    def _bind(self, handle: object, uuid: str, index: int) -> None:
        instances = instances_of(self._library, handle, uuid, self._mig_rule, simulated=self._simulated)
        board = self._boards.get(uuid)
        if board is not None:
            was_away = board.away
            board.bind(handle, index, instances)
            if was_away:
                self._notice(f"{_named(board.device)} can be read again. What it drew in between is unknown.")
            return
        name = str(self._library.attempt("nvmlDeviceGetName", handle) or "NVIDIA GPU")
        gain = gain_of(self._gains, uuid, name)
        device = DeviceSeen(uuid, 0, name, "gpu", "gpu", "none", simulated=self._simulated, gain=gain.text)
        board = GpuBoard(self._library, device, gain, self._clocks)
        board.bind(handle, index, instances)
        if self._boards and self._devices:
            self._notice(f"{_named(device)} has appeared: its energy is read from now on.")
        self._boards[uuid] = board
        for message in _peculiarities(board):
            self._notice(message)

    def _probe_again(self, board: GpuBoard) -> None:
        handle = self._library.attempt("nvmlDeviceGetHandleByUUID", board.device.uuid)
        try:
            if handle is not None:
                self._bind(handle, board.device.uuid, board.device.index)
        except NvmlFault:
            pass
        board.failing_since_ns = self._clocks().monotonic_ns if board.failing_since_ns else 0
        self._publish()

    def _owned(self) -> Iterator[tuple[str, str]]:
        for uuid, board in self._boards.items():
            yield uuid, uuid
            for instance in board.instances:
                yield instance.uuid, uuid

    def _publish(self) -> None:
        self._devices = tuple(each for board in self._boards.values() for each in (board.device, *board.instances))

    def _shut(self, fault: NvmlFault) -> None:
        """NVML does not answer: none of the devices seen so far can be read."""
        self._library.stop()
        self._open = False
        for board in self._boards.values():
            board.lose("driver")
        if self._wanted or self._boards or fault.word not in _HARMLESS:
            self._notice(f"NVML cannot be used: {fault}. GPU energy is unknown, not 0. {_remedy(fault.word)}")

    def _report_lost(self, board: GpuBoard) -> None:
        now_ns = self._clocks().monotonic_ns
        self._scan_due_ns = min(self._scan_due_ns, now_ns + self._retry_ns)
        self._notice(
            f"{_named(board.device)} cannot be read ({board.away}): its energy is unknown, not 0, until it can be "
            f"again. {_remedy(board.away)}"
        )

    def _notice(self, message: str) -> None:
        self._notices.append(("sensor", message.strip()))


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
    """Notices: what to know before using a device's energy."""
    device = board.device
    if device.simulated:
        yield f"{_named(device)} is SIMULATED: the NVML in use is `costtrace nvml-sim`. No joule of it is real."
    if device.source == "none":
        yield f"{_named(device)} offers neither an energy counter nor its power: its energy is unknown."
    if device.source == "power_integral":
        yield (
            f"{_named(device)} has no energy counter: its energy is integrated from samples of its power "
            "(`power_integral`), which misses what happens between them."
        )
    if device.scope == "module":
        yield (
            f"{_named(device)}: its energy counter is that of the whole module, CPU and memory included (scope "
            "`module`). It is not comparable with that of a GPU alone."
        )
    if board.instances:
        yield (
            f"{_named(device)} is shared by {len(board.instances)} MIG instances. NVML meters the board only: each "
            "instance is given a part by rule (scope `board_shared_by_mig`), which is an estimate."
        )
