"""The one error that the double raises to people."""

from costtrace.core.errors import CosttraceError


class NvmlSimError(CosttraceError):
    """A scenario, a feed or a build of the NVML double that cannot be used. Names the input and the remedy."""
