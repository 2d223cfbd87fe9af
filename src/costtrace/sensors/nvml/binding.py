"""The edge to NVML: the only module that uses nvidia-ml-py. Its errors become `NvmlFault`.

Process lists are never asked for: to make one the driver holds its global lock for milliseconds.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

ENERGY = 191
TOTAL_ENERGY = 83
POWER_INSTANT = 186
SCOPE_GPU = 0
SCOPE_MODULE = 1

SIMULATED_SUFFIX = "-sim"
"""The driver version of costtrace's simulated NVML ends so."""
SIMULATED_SERIAL = "SIMULATED"

_FAULTS = {
    1: "driver",  # UNINITIALIZED
    2: "not_supported",  # INVALID_ARGUMENT: how older drivers answer to what they do not know
    3: "not_supported",
    4: "denied",
    6: "lost",  # NOT_FOUND
    9: "driver",  # DRIVER_NOT_LOADED
    10: "timeout",
    12: "library",  # LIBRARY_NOT_FOUND
    13: "not_supported",  # FUNCTION_NOT_FOUND
    15: "lost",  # GPU_IS_LOST
    16: "lost",  # RESET_REQUIRED
    17: "denied",  # OPERATING_SYSTEM: blocked by cgroups, for instance
    18: "driver",  # LIB_RM_VERSION_MISMATCH: the driver was updated while this runs
    28: "lost",  # GPU_NOT_FOUND
}
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Member of the value union by value type."""


class NvmlFault(Exception):
    """A call of NVML failed."""

    def __init__(self, word: str, message: str) -> None:
        super().__init__(message)
        self.word = word
        """As in `Reading.fault`: ``lost``, ``denied``, ``driver``, ``not_supported``, ``timeout``, ``error``."""


class Field(NamedTuple):
    """One field value: a value, or why there is none."""

    value: int | None
    stamp_us: int
    """The driver's time, in microseconds since 1970: of the read or of the sensor's update, which it does not say."""
    fault: str = ""


class NvmlLibrary:
    """NVML, loaded at `start`. Raises NvmlFault and nothing else."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._started = False
        self.calls = 0

    def start(self) -> None:
        """Load the library and connect to the driver."""
        if self._nvml is None:
            try:
                import pynvml  # type: ignore[import-untyped]  # noqa: PLC0415 - the agent runs without it
            except ImportError as error:
                raise NvmlFault("library", "nvidia-ml-py is not installed (pip install nvidia-ml-py)") from error
            self._nvml = pynvml
        self.call("nvmlInit")
        self._started = True

    def stop(self) -> None:
        """Release the driver. Never raises."""
        if self._started:
            self._started = False
            self.attempt("nvmlShutdown")

    def call(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - ctypes structures of nvidia-ml-py
        """Call one function of NVML."""
        self.calls += 1
        try:
            return getattr(self._nvml, name)(*arguments)
        except AttributeError as error:  # nvidia-ml-py is older than the function
            raise NvmlFault("not_supported", f"this nvidia-ml-py has no {name}") from error
        except self._nvml.NVMLError as error:
            word = _FAULTS.get(int(getattr(error, "value", 999)), "error")
            raise NvmlFault(word, f"{name}: {error}") from error
        except Exception as error:  # ctypes, or decoding a text
            raise NvmlFault("error", f"{name}: {type(error).__name__}: {error}") from error

    def attempt(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - likewise
        """Call one function of NVML; None where it fails."""
        try:
            return self.call(name, *arguments)
        except NvmlFault:
            return None

    def fields(self, handle: object, wanted: Sequence[tuple[int, int]]) -> list[Field]:
        """Values of (field, scope) pairs, in one call."""
        values = self.call("nvmlDeviceGetFieldValues", handle, list(wanted))
        return [_field(value) for value in values]


def _field(value: Any) -> Field:  # noqa: ANN401 - a ctypes structure of nvidia-ml-py
    code = int(value.nvmlReturn)
    if code:
        return Field(None, 0, _FAULTS.get(code, "error"))
    kind = int(value.valueType)
    if kind >= len(_MEMBERS):
        return Field(None, 0, "not_supported")
    number = int(getattr(value.value, _MEMBERS[kind]))
    return Field(number, int(value.timestamp)) if number >= 0 else Field(None, 0, "error")


def is_simulated(driver_version: str | bytes) -> bool:
    """Whether a driver version, as NVML gives it, is that of the simulated NVML."""
    text = driver_version.decode(errors="replace") if isinstance(driver_version, bytes) else driver_version
    return text.endswith(SIMULATED_SUFFIX)
