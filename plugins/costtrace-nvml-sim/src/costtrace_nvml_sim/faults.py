"""Faults of a scenario: what goes wrong, when, on which device."""

from enum import IntEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from costtrace_nvml_sim.waves import Duration, Seconds, Strict

NVML_ERRORS = {
    "UNINITIALIZED": 1,
    "INVALID_ARGUMENT": 2,
    "NOT_SUPPORTED": 3,
    "NO_PERMISSION": 4,
    "NOT_FOUND": 6,
    "DRIVER_NOT_LOADED": 9,
    "TIMEOUT": 10,
    "IRQ_ISSUE": 11,
    "CORRUPTED_INFOROM": 14,
    "GPU_IS_LOST": 15,
    "RESET_REQUIRED": 16,
    "OPERATING_SYSTEM": 17,
    "LIB_RM_VERSION_MISMATCH": 18,
    "IN_USE": 19,
    "MEMORY": 20,
    "NO_DATA": 21,
    "INSUFFICIENT_RESOURCES": 23,
    "NOT_READY": 27,
    "UNKNOWN": 999,
}


class FaultKind(IntEnum):
    """The kinds of faults, numbered as in ``enum fault_kind`` of csrc/sim.h."""

    ERROR = 0
    LATENCY = 1
    LOST = 2
    ABSENT = 3
    COUNTER_RESET = 4
    COUNTER_FREEZE = 5
    DRIVER_UNLOADED = 6
    WALL_JUMP = 7


Call = Annotated[str, Field(pattern=r"^[A-Za-z0-9_*?:\[\]-]{1,90}$")]


class _Fault(Strict):
    device: Annotated[int, Field(ge=0)] | Literal["all"] = "all"
    at_s: Seconds | None = None
    """Start of the fault; default: before t0."""
    until_s: Seconds | None = None
    """End of the fault; default: never."""

    @model_validator(mode="after")
    def _ends_after_start(self) -> "_Fault":
        if self.until_s is not None and self.until_s <= (self.at_s or 0.0):
            raise ValueError("until_s must be later than at_s")
        return self


class CallError(_Fault):
    """Calls whose name matches return an error; ``times`` limits how often in each process (0: always)."""

    kind: Literal["error"]
    call: Call = "nvmlDevice*"
    code: str = "UNKNOWN"
    times: Annotated[int, Field(ge=0, le=1_000_000)] = 0

    @model_validator(mode="after")
    def _known_code(self) -> "CallError":
        if self.code not in NVML_ERRORS:
            raise ValueError(f"unknown code {self.code!r}; known: {', '.join(NVML_ERRORS)}")
        return self


class Latency(_Fault):
    """Calls whose name matches take longer."""

    kind: Literal["latency"]
    call: Call = "nvmlDevice*"
    latency_ms: Annotated[float, Field(gt=0, le=600_000)]


class GpuLost(_Fault):
    """The GPU has fallen off the bus: every call on it returns GPU_IS_LOST."""

    kind: Literal["gpu_lost"]


class Absent(_Fault):
    """The device is absent: an nvmlInit in this time does not enumerate it; older handles return GPU_IS_LOST."""

    kind: Literal["absent"]


class CounterReset(_Fault):
    """The energy counter restarts from zero."""

    kind: Literal["counter_reset"]
    at_s: Seconds
    until_s: None = None


class CounterFrozen(_Fault):
    """The energy counter stops; afterwards it shows the energy of that time (``catch_up``) or has ``lost`` it."""

    kind: Literal["counter_frozen"]
    at_s: Seconds
    until_s: Duration
    afterwards: Literal["catch_up", "lost"] = "catch_up"


class DriverNotLoaded(_Fault):
    """nvmlInit and every call return DRIVER_NOT_LOADED."""

    kind: Literal["driver_not_loaded"]
    device: Literal["all"] = "all"


class DriverReload(_Fault):
    """The driver is unloaded from ``at_s`` to ``until_s``; then every counter restarts from zero."""

    kind: Literal["driver_reload"]
    device: Literal["all"] = "all"
    at_s: Seconds
    until_s: Duration


class WallClockJump(_Fault):
    """The host's wall clock, and so the driver's timestamps, move by ``by_s``; the monotonic clock does not."""

    kind: Literal["wall_clock_jump"]
    device: Literal["all"] = "all"
    at_s: Seconds
    by_s: Annotated[float, Field(ge=-1e9, le=1e9)]


Fault = Annotated[
    CallError
    | Latency
    | GpuLost
    | Absent
    | CounterReset
    | CounterFrozen
    | DriverNotLoaded
    | DriverReload
    | WallClockJump,
    Field(discriminator="kind"),
]
