"""How long a step takes, by an analytic model: the roofline of `step_model` on a device's published figures."""

from costtrace.simulator.serving import Batch
from costtrace.step_model import Coefficients
from costtrace.units import NS_PER_S


class RooflineTime:
    """launch + max(tokens x compute, weights) + KV tokens read + prefill attention + a share for each sequence."""

    def __init__(self, coefficients: Coefficients) -> None:
        self._c = coefficients

    def __call__(self, batch: Batch) -> int:
        """Ns that a batch takes."""
        c = self._c
        tokens = sum(member.tokens for member in batch.members)
        context = sum(member.context for member in batch.members if member.decodes)
        attention = sum(m.tokens * (m.context + m.tokens / 2) for m in batch.members if not m.decodes)
        seconds = c.launch + max(tokens * c.token, c.weights) + context * c.context + attention * c.attention
        return round((seconds + c.sequence * len(batch.members)) * NS_PER_S)
