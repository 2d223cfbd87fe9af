"""The compiled scenario: integers only, one ``key value`` on each line; csrc/scenario.c and `truth` both read it.

It also fixes t0, so that every process of a run agrees on the time: CLOCK_MONOTONIC less ``t0_monotonic_ns``, or the
time of a virtual clock file.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from costtrace_nvml_sim.errors import NvmlSimError
from costtrace_nvml_sim.faults import FaultKind
from costtrace_nvml_sim.waves import Wave

HEADER = "costtrace-nvml-sim-scenario 1"
FOREVER = 2**63 - 1
BEFORE_ALL = -(2**63)
COUNTER_MODES = {"missing": 0, "ideal": 1, "part_time": 2}


@dataclass(frozen=True, slots=True)
class CompiledFault:
    """A fault from ``from_ns`` to ``until_ns`` on a device (-1: all). ``amount``: us of latency, or ns of a jump."""

    kind: FaultKind
    device: int
    from_ns: int
    until_ns: int
    code: int = 0
    times: int = 0
    amount: int = 0
    call: str = "-"


@dataclass(frozen=True, slots=True)
class CompiledFeed:
    """A device's use of feed file number ``file``: the records with device number ``number``."""

    file: int
    number: int
    initial_mw: int


@dataclass(frozen=True, slots=True)
class CompiledMig:
    """One MIG device."""

    gi: int
    ci: int
    slices: int
    compute_slices: int
    memory_mib: int
    sms: int
    uuid: str
    profile: str


@dataclass(frozen=True, slots=True)
class CompiledProcess:
    """One process of the process list."""

    pid: int
    size_bytes: int
    gi: int
    ci: int


@dataclass(slots=True, kw_only=True)
class CompiledDevice:
    """One device. Every int and str field has the same name in the file and in csrc/sim.h."""

    name: str
    uuid: str
    serial: str
    part_number: str
    vbios: str
    minor: int
    pci_domain: int
    pci_bus: int
    pci_device_id: int
    architecture: int
    cc_major: int
    cc_minor: int
    sms: int
    memory_mib: int
    memory_used_mib: int
    memory_reserved_mib: int
    idle_mw: int
    limit_mw: int
    default_limit_mw: int
    min_limit_mw: int
    max_limit_mw: int
    sm_clock_mhz: int
    idle_clock_mhz: int
    mem_clock_mhz: int
    update_ns: int
    window_ns: int
    average_samples: int
    lag_ns: int
    settle_ns: int
    phase_ns: int
    gain_ppm: int
    offset_mw: int
    resolution_mw: int
    usage_is_average: int
    has_instant: int
    has_average: int
    has_module: int
    stamp_at_update: int
    sample_buffer: int
    counter_mode: int
    counter_update_ns: int
    counter_phase_ns: int
    counter_lag_ns: int
    counter_resolution_mj: int
    counter_start_mj: int
    counter_module: int
    mig_enabled: int
    gpu: Wave = field(default_factory=lambda: Wave([0], [0]))
    module: Wave = field(default_factory=lambda: Wave([0], [0]))
    feeds: list[CompiledFeed] = field(default_factory=list)
    migs: list[CompiledMig] = field(default_factory=list)
    processes: list[CompiledProcess] = field(default_factory=list)


INT_KEYS = tuple(f.name for f in fields(CompiledDevice) if f.type is int)
TEXT_KEYS = tuple(f.name for f in fields(CompiledDevice) if f.type is str)


@dataclass(slots=True, kw_only=True)
class Compiled:
    """The whole scenario with its t0."""

    t0_monotonic_ns: int
    t0_unix_ns: int
    driver_version: str
    nvml_version: str
    cuda_version: int
    virtual_clock: Path | None = None
    calls_dir: Path | None = None
    feed_files: list[Path] = field(default_factory=list)
    devices: list[CompiledDevice] = field(default_factory=list)
    faults: list[CompiledFault] = field(default_factory=list)


def _wave_lines(key: str, wave: Wave) -> Iterator[str]:
    yield f"{key} {wave.loop_from} {wave.loop_ns}"
    for t, mw in zip(wave.t, wave.mw, strict=True):
        yield f"p {t} {mw}"


def _device_lines(device: CompiledDevice) -> Iterator[str]:
    yield "device"
    for key in (*TEXT_KEYS, *INT_KEYS):
        yield f"{key} {getattr(device, key)}"
    for feed in device.feeds:
        yield f"feed_use {feed.file} {feed.number} {feed.initial_mw}"
    for mig in device.migs:
        numbers = f"{mig.gi} {mig.ci} {mig.slices} {mig.compute_slices} {mig.memory_mib} {mig.sms}"
        yield f"mig {numbers} {mig.uuid} {mig.profile}"
    for process in device.processes:
        yield f"process {process.pid} {process.size_bytes} {process.gi} {process.ci}"
    yield from _wave_lines("gpu_wave", device.gpu)
    yield from _wave_lines("module_wave", device.module)


def _lines(compiled: Compiled) -> Iterator[str]:
    yield HEADER
    yield f"t0_monotonic_ns {compiled.t0_monotonic_ns}"
    yield f"t0_unix_ns {compiled.t0_unix_ns}"
    yield f"driver_version {compiled.driver_version}"
    yield f"nvml_version {compiled.nvml_version}"
    yield f"cuda_version {compiled.cuda_version}"
    if compiled.virtual_clock is not None:
        yield f"virtual_clock {compiled.virtual_clock}"
    if compiled.calls_dir is not None:
        yield f"calls_dir {compiled.calls_dir}"
    for path in compiled.feed_files:
        yield f"feed {path}"
    for f in compiled.faults:
        yield f"fault {int(f.kind)} {f.device} {f.from_ns} {f.until_ns} {f.code} {f.times} {f.amount} {f.call}"
    for device in compiled.devices:
        yield from _device_lines(device)
    yield "end"


def write_compiled(compiled: Compiled, path: Path) -> None:
    """Write the file atomically, mode 0600."""
    text = "".join(f"{line}\n" for line in _lines(compiled))
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with open(partial, "w", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
        file.write(text)
    partial.replace(path)


class _Reader:
    """Fills a Compiled line by line."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.feed_files: list[Path] = []
        self.faults: list[CompiledFault] = []
        self.devices: list[dict[str, str]] = []
        self.lists: list[tuple[list[CompiledFeed], list[CompiledMig], list[CompiledProcess]]] = []
        self.waves: list[dict[str, tuple[int, int, list[int], list[int]]]] = []
        self.points: tuple[list[int], list[int]] = ([], [])

    def take(self, key: str, value: str) -> None:
        if key == "p":
            t, mw = value.split()
            self.points[0].append(int(t))
            self.points[1].append(int(mw))
        elif key == "feed":
            self.feed_files.append(Path(value))
        elif key == "fault":
            *numbers, call = value.split(" ")
            kind, device, from_ns, until_ns, code, times, amount = map(int, numbers)
            self.faults.append(CompiledFault(FaultKind(kind), device, from_ns, until_ns, code, times, amount, call))
        elif key == "device":
            self.devices.append({})
            self.lists.append(([], [], []))
            self.waves.append({})
        elif self.devices:
            self._take_device(key, value)
        else:
            self.texts[key] = value

    def _take_device(self, key: str, value: str) -> None:
        feeds, migs, processes = self.lists[-1]
        if key in {"gpu_wave", "module_wave"}:
            loop_from, loop_ns = value.split()
            self.points = ([], [])
            self.waves[-1][key] = (int(loop_from), int(loop_ns), *self.points)
        elif key == "feed_use":
            feeds.append(CompiledFeed(*map(int, value.split())))
        elif key == "mig":
            *numbers, uuid, profile = value.split(" ", 7)
            gi, ci, slices, compute_slices, memory_mib, sms = map(int, numbers)
            migs.append(CompiledMig(gi, ci, slices, compute_slices, memory_mib, sms, uuid, profile))
        elif key == "process":
            processes.append(CompiledProcess(*map(int, value.split())))
        else:
            self.devices[-1][key] = value

    def device(self, index: int) -> CompiledDevice:
        texts, (feeds, migs, processes) = self.devices[index], self.lists[index]
        ints = {key: int(texts[key]) for key in INT_KEYS}
        strings = {key: texts[key] for key in TEXT_KEYS}
        device = CompiledDevice(**ints, **strings, feeds=feeds, migs=migs, processes=processes)  # type: ignore[arg-type]  # names and types from the class itself
        gpu, module = self.waves[index]["gpu_wave"], self.waves[index]["module_wave"]
        device.gpu = Wave(gpu[2], gpu[3], gpu[0], gpu[1])
        device.module = Wave(module[2], module[3], module[0], module[1])
        return device


def read_compiled(path: Path) -> Compiled:
    """Read what write_compiled wrote. Raises NvmlSimError."""
    reader = _Reader()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines or lines[0] != HEADER or lines[-1] != "end":
            raise NvmlSimError(
                f"{path}: not a compiled scenario, or cut off; write it with `costtrace nvml-sim compile`"
            )
        for line in lines[1:-1]:
            key, _, value = line.partition(" ")
            reader.take(key, value)
        texts = reader.texts
        return Compiled(
            t0_monotonic_ns=int(texts["t0_monotonic_ns"]),
            t0_unix_ns=int(texts["t0_unix_ns"]),
            driver_version=texts["driver_version"],
            nvml_version=texts["nvml_version"],
            cuda_version=int(texts["cuda_version"]),
            virtual_clock=Path(texts["virtual_clock"]) if "virtual_clock" in texts else None,
            calls_dir=Path(texts["calls_dir"]) if "calls_dir" in texts else None,
            feed_files=reader.feed_files,
            devices=[reader.device(i) for i in range(len(reader.devices))],
            faults=reader.faults,
        )
    except OSError as error:
        raise NvmlSimError(f"{path}: cannot be read: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise NvmlSimError(f"{path}: not a compiled scenario of this version ({error!r})") from error
