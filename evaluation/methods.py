"""Other people's ways of giving out the same bill, from what they would have: tokens and wall times of requests."""

from collections.abc import Callable, Sequence

from costtrace.usage import UsageRecord

Method = Callable[[Sequence[UsageRecord], float], list[float]]
"""Shares of the busy time (ms), one a request."""


def by_weight(weight: Callable[[UsageRecord], float]) -> Method:
    """Everybody pays in proportion to a weight."""

    def share(records: Sequence[UsageRecord], busy_ms: float) -> list[float]:
        weights = [weight(record) for record in records]
        return [busy_ms * one / sum(weights) for one in weights]

    return share


def opencost(records: Sequence[UsageRecord], busy_ms: float) -> list[float]:
    """OpenCost's documented rule: the bill is split into input and output by the sums of wall times in each."""
    prefill = sum(record.decode_ns_at - record.scheduled_ns for record in records)
    decode = sum(record.ended_ns - record.decode_ns_at for record in records)
    part = prefill / (prefill + decode)
    inputs = sum(record.input_tokens for record in records)
    outputs = sum(record.output_tokens for record in records)
    return [
        busy_ms * (part * record.input_tokens / inputs + (1 - part) * record.output_tokens / outputs)
        for record in records
    ]


OTHERS: dict[str, Method] = {
    "VTC, 1 : 2 by token": by_weight(lambda r: r.input_tokens + 2 * r.output_tokens),
    "list price, 1 : 5 by token": by_weight(lambda r: r.input_tokens + 5 * r.output_tokens),
    "flat price by token": by_weight(lambda r: r.input_tokens + r.output_tokens),
    "by output token": by_weight(lambda r: r.output_tokens),
    "OpenCost, wall times": opencost,
}
