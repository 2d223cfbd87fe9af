"""What a step costs, by what is in it: the model that sets the proportions between its participants.

    c(S) = F + max(ct * tok(S), W * cover(S)) + kb * ctx(S) + q * att(S) + s * n(S) + e * enc(S)
             + p * any prefill(S) + d * any decode(S)

F is launch and host work, ct the compute of a token, W the reading of the weights (the roofline's knee: below it
tokens ride for free), kb the reading of a KV token, q a unit of prefill attention, s the bookkeeping of a sequence, e
an encoder token, p what a step does once if there is any prefill chunk in it, d if there is any decode (kernels of
their own). cover(S) is the part of the weights that is read: all of them, or for a mixture of experts
``1 - x * (1 - k/E)**tok``, x being the experts' part of the weights. In seconds, but only proportions matter: shares
are scaled to the measured time (docs/method/paper.md section 1).

The prices are the Shapley value where that is a formula: each head pays a fee for what must be done once, and each
participant for the tokens beyond the knee that it brings about (`knee`). The reading of experts is paid by those who
cause it (`expert_units`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from costtrace.attribution.steps.device_peaks import DevicePeak, peak_of
from costtrace.attribution.steps.knee import beyond_knee
from costtrace.attribution.steps.prices import Prices
from costtrace.core.events import ESTIMATED, ModelShape


class Features(NamedTuple):
    """A step's totals: the regressors of the model."""

    heads: float
    """Head fees in the step: requests, sequences or tenants, by policy."""
    sequences: int
    tokens: int
    context: int
    """KV tokens read by the decodes."""
    attention: int
    """Prefill attention work, chunk x context."""
    encoder: int = 0
    """Encoder tokens (images, audio)."""
    experts: float = 0.0
    """Sum of the participants' `expert_units`; 0 where there are no experts."""
    prompts: int = 0
    """Prefill chunks."""
    beyond: float = 0.0
    """Sum of the participants' `ItemUse.beyond`."""


class Coefficients(NamedTuple):
    """The model's numbers, in seconds (per step, per token, per KV token, per unit, per sequence, per token)."""

    launch: float
    token: float
    weights: float
    context: float
    attention: float
    sequence: float
    encoder: float = 0.0
    expert_part: float = 0.0
    """Experts' part of the weights, 0 to 1."""
    expert_miss: float = 0.0
    """Chance that a token does not go to a given expert: 1 - k/E."""
    prompt: float = 0.0
    """For all prefill chunks of a step together; the prior has none, it is learned."""
    decode: float = 0.0
    """For all decodes of a step together; the prior has none, it is learned."""


LAUNCH_S = {"cpu": 5e-3, "gpu": 6e-4, "mig": 6e-4}
SEQUENCE_S = {"cpu": 5e-5, "gpu": 5e-6, "mig": 5e-6}
GENERIC_SHAPE = ModelShape(16 * 10**9, 8 * 10**9, 32, 131_072, 4_096, 32, 128)
"""An 8-billion-parameter dense model in 16 bits: where a fit starts if nothing is known of the model."""


def prior(shape: ModelShape, device_kind: str, devices: int, peak: DevicePeak | None = None) -> Coefficients | None:
    """Coefficients from the model's shape and the device's peaks; None where the shape is not known.

    Wrong by the devices' efficiency (a factor, which the scaling to measured time takes out) and by everything that is
    not compute or bandwidth. A fit on measured steps replaces it.
    """
    if not shape.active_params or not shape.weight_bytes:
        return None
    peak = peak or peak_of("", device_kind)
    flops, bandwidth = peak.flops * devices, peak.bytes_per_s * devices
    attention_flops = 4 * shape.layers * shape.heads * shape.head_size
    token = 2 * shape.active_params / flops
    routed = 0 < shape.experts_per_token < shape.experts
    return Coefficients(
        launch=LAUNCH_S.get(device_kind, LAUNCH_S["gpu"]),
        token=token,
        weights=shape.weight_bytes / bandwidth,
        context=shape.kv_bytes_per_token / bandwidth,
        attention=attention_flops / flops,
        sequence=SEQUENCE_S.get(device_kind, SEQUENCE_S["gpu"]),
        encoder=token,
        expert_part=min(1.0, shape.expert_bytes / shape.weight_bytes) if routed else 0.0,
        expert_miss=1 - shape.experts_per_token / shape.experts if routed else 0.0,
    )


def power(base: float, exponent: int) -> float:
    """*base* to a whole power by multiplications only: the same to the last bit on every machine."""
    result = 1.0
    while exponent and result:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def cover(c: Coefficients, tokens: int) -> float:
    """Part of the weights that a step of *tokens* reads."""
    return 1.0 - c.expert_part * power(c.expert_miss, tokens) if c.expert_part else 1.0


def expert_units(miss: float, tokens: int, all_tokens: int) -> float:
    """How much of the reading of experts a participant with *tokens* of *all_tokens* causes.

    What it adds on average, when participants arrive in random order and those before it have any number of the other
    tokens with equal chance. Exact for the Shapley value where all have one token; else close to it
    (docs/method/paper.md section 2).
    """
    if miss <= 0.0:
        return 1.0
    others = all_tokens - tokens
    return (1.0 - power(miss, tokens)) * (1.0 - power(miss, others + 1)) / ((others + 1) * (1.0 - miss))


def more_beyond_knee(c: Coefficients, sizes: Sequence[int], singles: int) -> dict[int, float]:
    """`ItemUse.beyond` by tokens, of the participants that are not among *singles* (`knee.beyond_knee`).

    What they bring beyond the knee on top of the price that each of their tokens pays like a single one.
    """
    tokens = singles + sum(sizes)
    read = c.weights * cover(c, tokens)
    if c.token * tokens <= read or max(sizes, default=1) == 1:
        return {}
    knee = read / c.token
    beyond = beyond_knee(sizes, singles, knee)
    single = beyond.get(1, 1.0 - knee / tokens)
    return {size: value - size * single for size, value in beyond.items()}


def roofline_prices(c: Coefficients, step: Features) -> Prices:
    """Prices of a step under the full model."""
    compute = c.token * step.tokens
    read = c.weights * cover(c, step.tokens) if c.expert_part else c.weights
    if compute <= read:
        return _prices(c, step, 0.0, "roofline")
    single = 1.0 - read / compute - step.beyond / step.tokens
    return _prices(c, step, c.token * max(0.0, single), "roofline")._replace(beyond=c.token)


def affine_prices(c: Coefficients, step: Features) -> Prices:
    """Prices of a step without the knee: weights and compute both count in full."""
    return _prices(c, step, c.token, "affine")


def _prices(c: Coefficients, step: Features, token: float, method: str) -> Prices:
    fixed = c.launch + c.weights * (1.0 - c.expert_part)
    expert = 0.0
    if c.expert_part:
        experts = c.weights * (cover(c, step.tokens) - 1.0 + c.expert_part)
        if step.experts > 0:
            expert = experts / step.experts
        else:
            fixed += experts
    head, decodes, prompt = fixed / max(1.0, step.heads), step.sequences, 0.0
    if step.prompts:
        prompt = c.prompt / step.prompts
        decodes -= step.prompts
    decode = c.decode / decodes if decodes else 0.0
    return Prices(head, c.sequence, token, c.context, c.attention, method, expert, c.encoder, prompt, decode)


TOKENS = Prices(0.0, 0.0, 1.0, 0.0, 0.0, "tokens")
"""Each computed token pays the same: where nothing is known of the model."""
EQUAL = Prices(0.0, 1.0, 0.0, 0.0, 0.0, "equal")
"""Each sequence pays the same."""


def step_total(prices: Prices, step: Features) -> float:
    """What all participants of a step pay together, before scaling."""
    return (
        prices.head * step.heads
        + prices.sequence * step.sequences
        + prices.token * step.tokens
        + prices.context * step.context
        + prices.attention * step.attention
        + prices.expert * step.experts
        + prices.encoder * step.encoder
        + prices.prompt * step.prompts
        + prices.decode * (step.sequences - step.prompts)
        + prices.beyond * step.beyond
    )


def step_prices(coefficients: Coefficients | None, method: str, step: Features) -> Prices:
    """Prices of a step by *method*, or by tokens where there are no coefficients. They carry the method used."""
    if method == "equal":
        return EQUAL
    if method.startswith(ESTIMATED):
        return TOKENS._replace(method=method)
    if coefficients is None or method == "tokens":
        return TOKENS
    if method == "affine":
        return affine_prices(coefficients, step)
    return roofline_prices(coefficients, step)
