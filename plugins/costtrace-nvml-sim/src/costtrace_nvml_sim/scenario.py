"""A scenario file in YAML, TOML or JSON, and its checks, whose messages name key and remedy."""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from costtrace.config.yaml_fields import Items, Section
from costtrace.config.yaml_file import load_mapping
from costtrace_nvml_sim.errors import NvmlSimError
from costtrace_nvml_sim.faults import Fault
from costtrace_nvml_sim.presets import PRESETS
from costtrace_nvml_sim.waves import Seconds, Strict, Watts, Waveform

MAX_DEVICES = 128
Milliseconds = Annotated[float, Field(ge=0, le=3_600_000)]
Period = Annotated[float, Field(ge=1, le=3_600_000)]
Window = Annotated[float, Field(ge=0.001, le=3_600_000)]
Text = Annotated[str, Field(min_length=1, max_length=90, pattern=r"^[ -~]+$")]


class Sensor(Strict):
    """The power sensor; None: as in the preset."""

    update_period_ms: Period | None = None
    window_ms: Window | None = None
    average_ms: Period | None = None
    lag_ms: Milliseconds = 0.0
    phase_ms: Milliseconds | None = None
    gain: Annotated[float, Field(gt=0, le=10)] = 1.0
    offset_w: Annotated[float, Field(ge=-1000, le=1000)] = 0.0
    resolution_mw: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    power_usage: Literal["instant", "average"] | None = None
    instant_field: bool = True
    average_field: bool | None = None
    field_timestamp: Literal["read", "update"] = "read"
    sample_buffer: Annotated[int, Field(ge=0, le=10_000)] = 120


class Counter(Strict):
    """The energy counter."""

    mode: Literal["ideal", "part_time", "missing"] | None = None
    """Default: ``ideal``, or ``missing`` where the architecture has no counter."""
    update_period_ms: Period | None = None
    phase_ms: Milliseconds | None = None
    lag_ms: Milliseconds = 0.0
    resolution_mj: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1
    start_mj: Annotated[int, Field(ge=0, le=2**53)] = 0
    scope: Literal["gpu", "module"] | None = None


class FeedUse(Strict):
    """A file of live power records (``costtrace_nvml_sim.feed``) that adds to this device's power."""

    path: Path
    device: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    """Device number in the records; default: the device's place in the scenario."""
    initial_w: Watts | None = None
    """Power before the first record; default: idle power for the first feed of a device without ``power``, else 0."""
    settle_ms: Milliseconds = 20.0
    """The sensor's lag behind the power, so that a record written late does not change an earlier reading."""


class Mig(Strict):
    """One MIG device (GPU instance and compute instance)."""

    profile: Text
    memory_mib: Annotated[int, Field(ge=1, le=2**32)]
    slices: Annotated[int, Field(ge=1, le=8)] = 1
    compute_slices: Annotated[int, Field(ge=1, le=8)] | None = None
    gpu_instance: Annotated[int, Field(ge=0, le=255)] | None = None
    compute_instance: Annotated[int, Field(ge=0, le=255)] = 0
    sms: Annotated[int, Field(ge=1, le=4096)] | None = None
    uuid: Annotated[str, Field(pattern=r"^MIG-[!-~]{1,80}$")] | None = None


class Process(Strict):
    """A process that the process list shows."""

    pid: Annotated[int, Field(ge=1, le=2**32 - 1)]
    memory_mib: Annotated[int, Field(ge=0, le=2**31)] = 0
    gpu_instance: Annotated[int, Field(ge=0, le=255)] | None = None
    compute_instance: Annotated[int, Field(ge=0, le=255)] = 0


class Device(Strict):
    """``count`` equal devices."""

    preset: str
    count: Annotated[int, Field(ge=1, le=MAX_DEVICES)] = 1
    name: Text | None = None
    uuid: Annotated[str, Field(pattern=r"^GPU-[!-~]{1,75}$")] | None = None
    power: Waveform | None = None
    module_power: Waveform | None = None
    feeds: Annotated[tuple[FeedUse, ...], Field(max_length=8)] = ()
    sensor: Sensor = Sensor()
    counter: Counter = Counter()
    memory_mib: Annotated[int, Field(ge=1, le=2**31)] | None = None
    memory_used_mib: Annotated[int, Field(ge=0, le=2**31)] = 0
    power_limit_w: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    mig: Annotated[tuple[Mig, ...], Field(max_length=8)] = ()
    mig_enabled: bool | None = None
    processes: Annotated[tuple[Process, ...], Field(max_length=64)] = ()

    @field_validator("power", "module_power", mode="before")
    @classmethod
    def _number_is_constant(cls, value: object) -> object:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return {"kind": "constant", "power_w": value}
        return value

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"unknown preset {value!r}; known: {', '.join(PRESETS)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Device":
        superchip = PRESETS[self.preset].module_extra_w is not None or self.module_power is not None
        if self.counter.scope == "module" and not superchip:
            raise ValueError(f"counter.scope module needs module_power: {self.preset} is no superchip")
        if self.count > 1 and self.uuid:
            raise ValueError("one uuid cannot serve several devices; leave out uuid or count")
        if self.mig and self.mig_enabled is False:
            raise ValueError("mig instances need mig_enabled: true")
        return self


class Scenario(Strict):
    """Everything that is simulated. Times ``*_s`` count from the scenario's start, t0."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    name: Text = "scenario"
    clock: Literal["real", "virtual"] = "real"
    start_unix_s: Seconds | None = None
    """Wall time of t0 for the driver's timestamps; default: the wall time when the scenario is compiled."""
    driver_version: Text = "580.95"
    cuda_version: Annotated[int, Field(ge=1000, le=100_000)] = 13000
    process_list_ms: Milliseconds = 4.5
    """Duration of a call for a process list (4.5 ms: MangoHud issue 2104)."""
    call_us: Annotated[float, Field(ge=0, le=10_000_000)] = 0.0
    """Added duration of every call."""
    devices: tuple[Device, ...] = ()
    faults: Annotated[tuple[Fault, ...], Field(max_length=400)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Scenario":
        count = sum(device.count for device in self.devices)
        if count > MAX_DEVICES:
            raise ValueError(f"{count} devices; at most {MAX_DEVICES} can be simulated")
        for fault in self.faults:
            if fault.device != "all" and fault.device >= count:
                raise ValueError(f"fault {fault.kind}: no device {fault.device}; the scenario has {count}")
        return self


def _known_keys() -> set[str]:
    models = [model for model in _all_subclasses(BaseModel) if model.__module__.startswith("costtrace_nvml_sim")]
    return {key for model in models for key in model.model_fields}


def _all_subclasses(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [subclass for direct in model.__subclasses__() for subclass in (direct, *_all_subclasses(direct))]


def _line(data: object, keys: tuple[int | str, ...]) -> str:
    """Where a YAML file has the innermost of *keys* that it has."""
    line = 0
    for key in keys:
        if isinstance(data, Section) and key in data:
            line, data = data.lines[str(key)], data[str(key)]
        elif isinstance(data, Items) and isinstance(key, int):
            line, data = data.lines[key], data[key]
    return f" (line {line})" if line else ""


def _explain(error: ValidationError, data: object) -> str:
    lines = []
    for issue in error.errors():
        where = ".".join(str(part) for part in issue["loc"]) or "scenario"
        message = issue["msg"].removeprefix("Value error, ")
        if issue["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(issue["loc"][-1]), _known_keys(), n=1)
            message = "unknown key" + (f"; did you mean {near[0]}?" if near else "")
        lines.append(f"  {where}: {message}{_line(data, issue['loc'])}")
    return "\n".join(lines)


def parse_scenario(data: object, *, source: str = "scenario") -> Scenario:
    """Check plain data. Raises NvmlSimError, which lists every wrong key."""
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        raise NvmlSimError(f"{source}: this scenario cannot be used:\n{_explain(error, data)}") from error


def _parse_text(path: Path, text: str) -> Any:
    if path.suffix == ".toml":
        return tomllib.loads(text)
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix in {".yaml", ".yml"}:
        return load_mapping(path, NvmlSimError, "the scenario")
    raise NvmlSimError(f"{path}: a scenario's name ends in .yaml, .toml or .json")


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario file. Raises NvmlSimError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NvmlSimError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise NvmlSimError(f"{path}: is not UTF-8 text") from error
    try:
        data = _parse_text(path, text)
    except (ValueError, RecursionError) as error:  # of TOML and JSON
        raise NvmlSimError(f"{path}: {error}") from error
    return parse_scenario(data, source=str(path))
