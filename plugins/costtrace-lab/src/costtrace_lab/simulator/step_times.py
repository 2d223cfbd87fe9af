"""How long a simulated step takes: the analytic model, and disturbances on top of any model."""

import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from costtrace.attribution.steps.cost_model import Coefficients, prior
from costtrace.attribution.steps.device_peaks import DevicePeak, peak_of
from costtrace_lab.simulator.models import Model


class Load(NamedTuple):
    """The work of one step."""

    decodes: int
    """Sequences that decode."""
    decode_tokens: int
    """Tokens computed for them: one each, and their drafts."""
    decode_context: int
    """KV tokens that they read, in total."""
    chunks: Sequence[tuple[int, int]]
    """The prefill chunks: (tokens, context before them)."""

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return self.decode_tokens + sum(tokens for tokens, _ in self.chunks)

    @property
    def sequences(self) -> int:
        """Sequences in the step."""
        return self.decodes + len(self.chunks)


class StepTimes(Protocol):
    """Computes how long a step takes."""

    @property
    def source(self) -> str:
        """The source of the times, for people."""
        ...

    def seconds(self, load: Load, at_s: float) -> float:
        """Seconds of a step that begins *at_s* seconds after the simulation did."""
        ...


class Analytic:
    """The step model of docs/method/paper.md section 1 with given coefficients (s). All experts count as read."""

    def __init__(self, coefficients: Coefficients, source: str) -> None:
        self.coefficients = coefficients
        self.source = source

    def seconds(self, load: Load, at_s: float) -> float:
        """Seconds of a step."""
        del at_s
        c = self.coefficients
        attention = sum(tokens * context + tokens * tokens // 2 for tokens, context in load.chunks)
        return (
            c.launch
            + max(c.token * load.tokens, c.weights)
            + c.context * load.decode_context
            + c.attention * attention
            + c.sequence * load.sequences
            + (c.prompt if load.chunks else 0.0)
            + (c.decode if load.decodes else 0.0)
        )


class Roofline(Analytic):
    """The analytic model with the published peaks of a device, or with given peaks.

    Costtrace fits the same family of models: errors measured against it are smaller than on any real engine.
    """

    def __init__(
        self,
        model: Model,
        device: str,
        efficiency: float = 0.7,
        *,
        peak: DevicePeak | None = None,
        devices: int = 1,
    ) -> None:
        whose = "published" if peak is None else "given"
        peak = peak or peak_of(device, "gpu")
        peak = peak._replace(flops=peak.flops * efficiency, bytes_per_s=peak.bytes_per_s * efficiency)
        coefficients = prior(model.shape(), "gpu", devices, peak)
        assert coefficients is not None
        super().__init__(coefficients, f"analytic roofline at {efficiency:.0%} of the {whose} peaks of {device}")


class Disturbances(msgspec.Struct, frozen=True, kw_only=True):
    """Deviations of a real machine that no model has."""

    noise: float = 0.0
    """Standard deviation of a factor on each step."""
    pause_chance: float = 0.0
    pause_s: tuple[float, float] = (0.05, 0.2)
    """Seconds, lowest and highest, that a pause adds to a step: a garbage collection, the capture of a graph."""
    throttle_after_s: float = float("inf")
    throttle_factor: float = 1.3
    """Lower clocks: the factor on all steps from `throttle_after_s` on."""


class Disturbed:
    """Step times with disturbances added."""

    def __init__(self, times: StepTimes, disturbances: Disturbances, seed: int = 1) -> None:
        self.pauses: list[float] = []
        """Seconds of pause in each step so far."""
        self.source = times.source
        self._times = times
        self._disturbances = disturbances
        self._random = random.Random(seed)  # noqa: S311 - reproducible, not secret

    def seconds(self, load: Load, at_s: float) -> float:
        """Seconds of a step."""
        disturbances, rng = self._disturbances, self._random
        factor = max(0.5, 1.0 + rng.gauss(0.0, disturbances.noise)) if disturbances.noise else 1.0
        if at_s >= disturbances.throttle_after_s:
            factor *= disturbances.throttle_factor
        pause = rng.uniform(*disturbances.pause_s) if rng.random() < disturbances.pause_chance else 0.0
        self.pauses.append(pause)
        return self._times.seconds(load, at_s) * factor + pause
