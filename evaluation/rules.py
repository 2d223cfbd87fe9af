"""The rules that shares are compared by, and how far each is from the truth."""

from typing import NamedTuple

import numpy as np


class Requests(NamedTuple):
    """Closed requests as arrays, by slot; place 0 is nobody."""

    tenant: np.ndarray
    prompt: np.ndarray
    cached: np.ndarray
    output: np.ndarray
    prefill_wall: np.ndarray
    """Seconds from its first step to its first token."""
    decode_wall: np.ndarray


class Score(NamedTuple):
    """How far a rule is from Shapley."""

    rule: str
    mean_error: float
    """Mean over requests of the relative error."""
    p95_error: float
    misplaced: float
    """Part of all time that is charged to the wrong request."""
    worst_tenant: float
    input_share: float | None
    """Part of all time that is put on prompts; None: the rule does not say."""


def requests_of(records, slots):
    tenants = np.full(slots + 1, "", dtype=object)
    whole = [np.zeros(slots + 1) for _ in range(5)]
    for r in records:
        slot = int(r.request_key.removeprefix("sim-"))
        tenants[slot] = r.tenant
        prefill_ns, decode_ns = r.decode_ns_at - r.scheduled_ns, r.ended_ns - r.decode_ns_at
        values = (r.input_tokens, r.cached_tokens, r.output_tokens, prefill_ns * 1e-9, decode_ns * 1e-9)
        for column, value in zip(whole, values, strict=True):
            column[slot] = value
    return Requests(tenants, *whole)


def price_rules(requests, total):
    """Seconds by slot of the rules that look at a request alone; each sums to *total*. With their input share."""
    prompt, output = requests.prompt, requests.output

    def priced(ratio):
        weights = prompt + ratio * output
        return total * weights / weights.sum(), float(prompt.sum() / weights.sum())

    yield "price 1:1 (flat per token)", *priced(1)
    yield "price 1:2 (VTC)", *priced(2)
    yield "price 1:5 (API style)", *priced(5)
    yield "J per output token", total * output / output.sum(), 0.0
    # OpenCost's inference cost v1: the split between input and output by the sums of the requests' wall times.
    walls = requests.prefill_wall.sum(), requests.decode_wall.sum()
    part = walls[0] / sum(walls)
    read = prompt - requests.cached
    yield "OpenCost wall time", total * (part * read / read.sum() + (1 - part) * output / output.sum()), float(part)


def score(rule, seconds, truth, requests, input_share=None):
    there = truth > 0
    errors = np.abs(seconds[there] - truth[there]) / truth[there]
    misplaced = float(np.abs(seconds - truth).sum() / 2 / truth.sum())
    worst = max(
        abs(seconds[mine].sum() - truth[mine].sum()) / truth[mine].sum()
        for tenant in set(requests.tenant[there])
        for mine in [requests.tenant == tenant]
    )
    return Score(rule, float(errors.mean()), float(np.quantile(errors, 0.95)), misplaced, float(worst), input_share)
