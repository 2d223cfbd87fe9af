"""The model by which the energy of a counter's windows is distributed over steps and idle time.

    E(window) = P0 * time + Pb * busy time + e_s * steps + e_t * tokens + e_c * KV tokens + e_a * prefill attention

Energies in uJ, times in ns. e_s is what a step takes once, whatever is in it: the weights are read. Without it that
energy would be taken for power of busy time, and a prompt's token would seem cheaper than it is.

Fitted per device on its own counter windows, so that its idle watts are among the coefficients. Errors move energy
between the steps of one window and never create or lose any: each window is rescaled to its counter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from costtrace.attribution.steps.cost_model import Features, step_total
from costtrace.attribution.steps.least_squares import Regression
from costtrace.attribution.steps.prices import Prices
from costtrace.attribution.steps.step_work import StepWork

PRIOR = (0.10, 0.35, 0.0, 0.0, 0.0, 0.0)
"""uJ per ns of time and of busy time (100 W idle, 350 W more when busy): round numbers; only proportions count."""

LEAST_EXPECTED = 4.0
"""A window's residual is relative to its expected energy, but at least to its energy divided by this."""


class Load(NamedTuple):
    """What a device did in a stretch of time: the regressors."""

    ns: float
    busy_ns: float
    tokens: float
    context: float
    attention: float
    steps: float = 0.0

    def times(self, factor: float) -> "Load":
        """The load times a factor."""
        return Load(*(value * factor for value in self))

    def plus(self, other: "Load") -> "Load":
        """The sum of two loads."""
        return Load(*(a + b for a, b in zip(self, other, strict=True)))


NOTHING = Load(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class EnergyModel(msgspec.Struct):
    """One device's model."""

    regression: Regression = msgspec.field(default_factory=lambda: Regression(list(PRIOR), forgetting=0.9995))
    error_sum: float = 0.0
    error_weight: float = 0.0

    def __post_init__(self) -> None:
        if len(self.regression.prior) != len(PRIOR):  # a state of a release with fewer regressors
            self.regression = Regression(list(PRIOR), forgetting=self.regression.forgetting)

    def weight(self, load: Load) -> float:
        """Energy (uJ) that a load is expected to have taken."""
        return self.regression.predict(list(load))

    def observe(self, load: Load, energy_uj: int) -> None:
        """Learn from a counter window. Residuals are relative: power varies in proportion to itself."""
        if energy_uj <= 0:
            return
        expected_uj = self.weight(load)
        scale = max(expected_uj, energy_uj / LEAST_EXPECTED) if self.error_weight else float(energy_uj)
        self.error_sum = self.error_sum * 0.99 + abs(expected_uj - energy_uj) / energy_uj
        self.error_weight = self.error_weight * 0.99 + 1.0
        self.regression.observe([value / scale for value in load], energy_uj / scale)

    def idle_watts(self) -> float | None:
        """Power of the device when nothing runs on it, in W; None: it has learned from nothing yet."""
        return None if not self.regression.weight else self.regression.coefficients()[0] * 1e3

    def restart(self) -> None:
        """Keep what was learned as a prior only: windows are placed at other times from now on."""
        self.regression.forget()

    def unexplained(self) -> float:
        """Sum of the squared residuals of its windows."""
        return self.regression.residual()

    def mape(self) -> float | None:
        """Mean absolute error of recent predictions, as a share of a window's energy; None: no window yet."""
        return self.error_sum / self.error_weight if self.error_weight else None


def energy_prices(coefficients: Sequence[float], time_prices: Prices, features: Features, step_ns: float) -> Prices:
    """Energy prices of a step, in uJ: what follows time is shared as time is, the rest by what it is for.

    What a step takes once is shared as its fixed time is (head fees, and for experts who made them be read); as all of
    its time, where the time prices have no such part. *step_ns*: all of the step's time on one device; the
    coefficients are those of one device.
    """
    p0, pb, token, context, attention, once = coefficients
    whole = step_total(time_prices, features)
    fixed = time_prices.head * features.heads + time_prices.expert * features.experts
    follows = (p0 + pb) * step_ns
    if fixed <= 0:
        follows, once = follows + once, 0.0
    follows = follows / whole if whole > 0 else 0.0
    fixed = follows + (once / fixed if once else 0.0)
    return Prices(
        time_prices.head * fixed,
        time_prices.sequence * follows,
        time_prices.token * follows + token,
        time_prices.context * follows + context,
        time_prices.attention * follows + attention,
        time_prices.method,
        time_prices.expert * fixed,
        time_prices.encoder * follows,
        time_prices.prompt * follows,
        time_prices.decode * follows,
        time_prices.beyond * follows,
    )


Spending = tuple[Sequence[float], float]
"""How a device spends energy (coefficients), and over how many device-steps that is asked."""


def step_load(work: StepWork, device_ns: int, share: float) -> Load:
    """Load of a step, or of the piece of it that took *device_ns*; *share*: how much of the step that piece is."""
    return Load(device_ns, device_ns, work.tokens * share, work.context * share, work.attention * share, share)
