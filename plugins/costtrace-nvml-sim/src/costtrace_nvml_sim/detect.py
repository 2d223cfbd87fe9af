"""Recognise the simulated library. It has three marks, each of which is enough.

* the driver version ends in ``-sim`` (``nvmlSystemGetDriverVersion``): for a program that uses NVML anyway,
* every serial number and board part number starts with ``SIMULATED``,
* the library exports ``costtrace_nvml_sim_version``.
"""

import ctypes


def loaded_library_version() -> str | None:
    """The version of the simulated library, if this process would load it as NVML; None for the driver's or none."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        function = library.costtrace_nvml_sim_version
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_char_p
    version = function()
    return version.decode() if isinstance(version, bytes) else None
