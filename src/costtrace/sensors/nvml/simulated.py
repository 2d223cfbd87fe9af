"""Telling a simulated NVML from the driver's."""

SIMULATED_SUFFIX = "-sim"


SIMULATED_SERIAL = "SIMULATED"


def is_simulated(driver_version: str | bytes) -> bool:
    """Whether a driver version, as NVML tells it, is that of the double."""
    text = driver_version.decode(errors="replace") if isinstance(driver_version, bytes) else driver_version
    return text.endswith(SIMULATED_SUFFIX)
