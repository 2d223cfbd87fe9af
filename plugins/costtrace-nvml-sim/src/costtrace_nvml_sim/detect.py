"""How to tell the double from the driver. Three marks, any one of which is enough.

* the driver version ends in ``-sim`` (``nvmlSystemGetDriverVersion``): the way for a program that uses NVML anyway,
* every serial number and board part number starts with ``SIMULATED``,
* the library exports ``costtrace_nvml_sim_version``.
"""

import ctypes


def loaded_library_version() -> str | None:
    """Version of the double that this process would load as NVML; None with the driver's library or with none."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        function = library.costtrace_nvml_sim_version
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_char_p
    version = function()
    return version.decode() if isinstance(version, bytes) else None
