"""Running sums of a step model's regressions: one kind of step, several knees at once.

With them, a fit costs a fixed number of additions a step, and its state a fixed number of numbers.
"""

import msgspec

from costtrace.core.rows import METHODS

KNEES = (0.0, 0.12, 0.25, 0.45, 0.7, 1.0, 1.5, 3.0)
"""Candidate knees, as multiples of the prior's; the first is the affine model, which has none."""
SHARED = 7
"""Regressors that do not depend on the knee: 1, sequences, KV tokens, attention, encoder tokens, whether there is any
prefill, whether there is any decode."""
FORGET = 0.999
"""A step's weight is multiplied by this for each later step of its kind: about 1,000 count. The two kinds forget
separately, so that a night of decoding does not wear out what is known about prompts."""
RESCALE = 1e9
"""A gain at which all sums are rescaled, to stay within the range of a float."""

DECODE = SHARED - 1
"""Place of the shared regressor that is 1 if there is any decode."""

Shared = tuple[float, float, float, float, float, float, float]
"""1, sequences, KV tokens, attention, encoder tokens, 1 if there is any prefill, 1 if there is any decode."""


class Sums(msgspec.Struct):
    """Weighted sums over steps of one kind. The weight of new steps grows, instead of the sums shrinking."""

    gain: float = 1.0
    """Weight of the next step."""
    weight: float = 0.0
    yy: float = 0.0
    xx: list[float] = msgspec.field(default_factory=lambda: [0.0] * (SHARED * SHARED))
    """Of the regressors that all knees share; row <= column is kept."""
    xy: list[float] = msgspec.field(default_factory=lambda: [0.0] * SHARED)
    mx: list[list[float]] = msgspec.field(default_factory=lambda: [[0.0] * SHARED for _ in KNEES])
    """By knee: its token regressor times each shared one."""
    mm: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(KNEES))
    """By knee: its token regressor, squared."""
    my: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(KNEES))
    """By knee: its token regressor times the step's time."""

    def __post_init__(self) -> None:
        if len(self.xy) != SHARED:  # a state of a version with other regressors: start again
            fresh = Sums()
            self.gain, self.weight, self.yy, self.xx, self.xy = fresh.gain, fresh.weight, fresh.yy, fresh.xx, fresh.xy
            self.mx, self.mm, self.my = fresh.mx, fresh.mm, fresh.my

    def add(self, x: Shared, tokens: list[float], y: float, weight: float) -> None:
        """Take in a step: shared regressors, token regressor by knee, time in s, weight."""
        self.gain /= FORGET
        w = weight * self.gain
        self.weight += self.gain
        self.yy += w * y * y
        xx, xy = self.xx, self.xy
        present = [(place, value) for place, value in enumerate(x) if value]
        for first, (i, value) in enumerate(present):
            wx, row = w * value, i * SHARED
            xy[i] += wx * y
            for j, other in present[first:]:
                xx[row + j] += wx * other
        mm, my = self.mm, self.my
        _, sequences, context, attention, encoder, prompts, decodes = x
        for knee, (m, mx) in enumerate(zip(tokens, self.mx, strict=True)):  # unrolled, as most of a step's cost is here
            wm = w * m
            mx[0] += wm
            mx[1] += wm * sequences
            mx[2] += wm * context
            if attention:
                mx[3] += wm * attention
            if encoder:
                mx[4] += wm * encoder
            if prompts:
                mx[5] += wm
            if decodes:
                mx[6] += wm
            mm[knee] += wm * m
            my[knee] += wm * y
        if self.gain > RESCALE:
            self._rescale(1.0 / self.gain)

    def slow_down(self, ratio: float, most: float) -> None:
        """Make the sums those of steps *ratio* times as long, and let them count for *most* steps at most."""
        by = 1.0 / (ratio * ratio)  # weights are by expected times, squared
        self.xx = [value * by for value in self.xx]
        self.mx = [[value * by for value in row] for row in self.mx]
        self.mm = [value * by for value in self.mm]
        self.xy = [value / ratio for value in self.xy]
        self.my = [value / ratio for value in self.my]
        self.gain = max(self.gain, self.weight / most)

    def _rescale(self, by: float) -> None:
        self.gain, self.weight, self.yy = 1.0, self.weight * by, self.yy * by
        self.xx = [value * by for value in self.xx]
        self.xy = [value * by for value in self.xy]
        self.mx = [[value * by for value in row] for row in self.mx]
        self.mm = [value * by for value in self.mm]
        self.my = [value * by for value in self.my]


class Equations(msgspec.Struct):
    """Normal equations for one knee: of both kinds of steps together."""

    a: list[list[float]]
    b: list[float]
    yy: float
    weight: float


class Errors(msgspec.Struct):
    """Rolling mean of relative errors by rung, each at most 1, of predictions made before the step was known."""

    sums: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(METHODS))
    weight: float = 0.0

    def add(self, errors: list[float]) -> None:
        """Take in a step's relative errors, by rung."""
        keep = 1.0 - 1.0 / 512
        self.weight = self.weight * keep + 1.0
        self.sums = [so_far * keep + min(1.0, error) for so_far, error in zip(self.sums, errors, strict=True)]

    def mean(self, rung: int) -> float | None:
        """Mean error of one rung; None: no step has been seen."""
        return self.sums[rung] / self.weight if self.weight else None
