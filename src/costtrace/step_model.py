"""What a step costs, by what is in it: the model that sets the proportions between its participants.

    c(S) = F + max(ct * tok(S), W) + kb * ctx(S) + q * att(S) + s * n(S)

F is launch and host work, ct the compute of a token, W the reading of the weights (the roofline's knee: below it
tokens ride for free), kb the reading of a KV token, q a unit of prefill attention, s the bookkeeping of a sequence.
Seconds, but only proportions matter: shares are scaled to the measured time (docs/method.md section 3).

The prices are Aumann-Shapley's: everybody pays a head fee for what must be done once, and the token price is what
the tokens beyond the knee really cost.
"""

from typing import NamedTuple

from costtrace.events import ModelShape
from costtrace.virtual_time import Prices


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


class Coefficients(NamedTuple):
    """The model's six numbers, in seconds (per step, per token, per KV token, per unit, per sequence)."""

    launch: float
    token: float
    weights: float
    context: float
    attention: float
    sequence: float


class DevicePeak(NamedTuple):
    """What a device can do at best. Sources: docs/method.md, table of devices."""

    flops: float
    """Dense, at the usual serving precision, per second."""
    bytes_per_s: float


GENERIC_GPU = DevicePeak(9.9e14, 3.35e12)
"""An honest generic prior (H100-like proportions): only the ratio of compute to bandwidth matters for shares."""
GENERIC_CPU = DevicePeak(2.0e12, 1.0e11)
LAUNCH_S = {"cpu": 5e-3, "gpu": 6e-4, "mig": 6e-4}
SEQUENCE_S = {"cpu": 5e-5, "gpu": 5e-6, "mig": 5e-6}


def prior(shape: ModelShape, device_kind: str, devices: int, peak: DevicePeak | None = None) -> Coefficients | None:
    """Coefficients from the model's shape and the device's peaks; None where the shape is not known.

    Wrong by the devices' efficiency (a factor the scaling to measured time takes out) and by everything that is not
    compute or bandwidth; a fit on measured steps replaces it.
    """
    if not shape.active_params or not shape.weight_bytes:
        return None
    peak = peak or (GENERIC_CPU if device_kind == "cpu" else GENERIC_GPU)
    flops, bandwidth = peak.flops * devices, peak.bytes_per_s * devices
    attention_flops = 4 * shape.layers * shape.heads * shape.head_size
    return Coefficients(
        launch=LAUNCH_S.get(device_kind, LAUNCH_S["gpu"]),
        token=2 * shape.active_params / flops,
        weights=shape.weight_bytes / bandwidth,
        context=shape.kv_bytes_per_token / bandwidth,
        attention=attention_flops / flops,
        sequence=SEQUENCE_S.get(device_kind, SEQUENCE_S["gpu"]),
    )


def roofline_prices(c: Coefficients, step: Features) -> Prices:
    """Aumann-Shapley prices of a step under the full model."""
    compute = c.token * step.tokens
    beyond_knee = max(0.0, 1.0 - c.weights / compute) if compute > 0 else 0.0
    head = (c.launch + c.weights) / max(1.0, step.heads)
    return Prices(head, c.sequence, c.token * beyond_knee, c.context, c.attention, "roofline")


def affine_prices(c: Coefficients, step: Features) -> Prices:
    """The same without the knee: weights and compute both count in full."""
    head = (c.launch + c.weights) / max(1.0, step.heads)
    return Prices(head, c.sequence, c.token, c.context, c.attention, "affine")


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
    )


class StepModel:
    """Sets the prices of each step of one engine: the best method its knowledge allows, or the one it was told."""

    def __init__(self, coefficients: Coefficients | None, method: str = "roofline") -> None:
        self.coefficients = coefficients
        self.method = method

    def prices(self, step: Features) -> Prices:
        """Prices of a step; the method that made them is on them."""
        if self.method == "equal":
            return EQUAL
        if self.coefficients is None or self.method == "tokens":
            return TOKENS
        if self.method == "affine":
            return affine_prices(self.coefficients, step)
        return roofline_prices(self.coefficients, step)
