"""The error that the NVML simulator raises."""

from costtrace.core.errors import CosttraceError


class NvmlSimError(CosttraceError):
    """A scenario, feed or build that cannot be used. The message names the input and the remedy."""
