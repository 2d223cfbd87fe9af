"""A simulated NVML (NVIDIA's management library) for hosts without a GPU, with the physics of its power sensors.

``costtrace nvml-sim run SCENARIO -- COMMAND`` runs any program that reads GPUs through ``libnvidia-ml.so.1`` on
simulated ones. The library that takes the driver's place is called the double. Everything that it shows is marked as
simulated: see ``costtrace_nvml_sim.detect``. Guide: docs/nvml-sim.md.
"""

from costtrace.sensors.nvml.binding import is_simulated
from costtrace_nvml_sim.detect import loaded_library_version
from costtrace_nvml_sim.errors import NvmlSimError

__all__ = ["NvmlSimError", "is_simulated", "loaded_library_version"]
