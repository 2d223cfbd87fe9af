"""Small online regression: non-negative least squares with forgetting, on running sums. Pure Python, deterministic.

Minimises  sum_k lambda**age (y_k - x_k . b)**2 + ridge * sum_j (scale_j * (b_j - prior_j))**2   over b >= 0.

With six regressors the normal equations are a handful of numbers, a solve takes some tens of microseconds, and no
array library's rounding can make two machines disagree.
"""

import msgspec

from costtrace.attribution.steps.nnls import solve

RIDGE = 0.02
"""Weight of the prior, in observations of typical size: it matters until there is data, and where data say nothing."""


class Regression(msgspec.Struct):
    """Running sums of a regression with fixed regressors."""

    prior: list[float]
    forgetting: float = 0.999
    xx: list[list[float]] = []
    xy: list[float] = []
    yy: float = 0.0
    weight: float = 0.0
    """Observations that count, after forgetting."""
    solution: list[float] = []

    def observe(self, x: list[float], y: float) -> None:
        """Take in one observation."""
        size = len(self.prior)
        if not self.xx:
            self.xx = [[0.0] * size for _ in range(size)]
            self.xy = [0.0] * size
        keep = self.forgetting
        for i in range(size):
            row = self.xx[i]
            for j in range(size):
                row[j] = row[j] * keep + x[i] * x[j]
            self.xy[i] = self.xy[i] * keep + x[i] * y
        self.yy = self.yy * keep + y * y
        self.weight = self.weight * keep + 1.0
        self.solution = []

    def coefficients(self) -> list[float]:
        """The best non-negative coefficients; the prior's own while nothing has been observed."""
        if not self.weight:
            return list(self.prior)
        if not self.solution:
            self.solution = self._solve()
        return self.solution

    def predict(self, x: list[float]) -> float:
        """What the model expects."""
        return sum(a * b for a, b in zip(x, self.coefficients(), strict=True))

    def residual(self) -> float:
        """Sum of squares that the coefficients leave unexplained, of the observations that count."""
        if not self.weight:
            return 0.0
        b = self.coefficients()
        return self.yy - 2.0 * _dot(b, self.xy) + _quadratic(b, self.xx)

    def forget(self) -> None:
        """What was observed so far is of another time (another model, other clocks): keep its result as the prior."""
        self.prior = list(self.coefficients())
        self.xx, self.xy, self.yy, self.weight, self.solution = [], [], 0.0, 0.0, []

    def _solve(self) -> list[float]:
        """On scaled regressors, and exactly: those of a GPU's energy (time, busy time, steps) are nearly the same."""
        size = len(self.prior)
        scales = [(self.xx[j][j] / self.weight) ** 0.5 or 1.0 for j in range(size)]
        a = [[self.xx[i][j] / self.weight / scales[i] / scales[j] for j in range(size)] for i in range(size)]
        b = [self.xy[i] / self.weight / scales[i] for i in range(size)]
        # The prior in the scaled units. Its overall level is free (only its proportions are known): fit that first.
        start = [self.prior[j] * scales[j] for j in range(size)]
        level = _dot(start, b) / (_quadratic(start, a) or 1.0)
        if level > 0:
            start = [value * level for value in start]
        own = RIDGE / max(1.0, self.weight)
        for j in range(size):
            a[j][j] += own
            b[j] += own * start[j]
        return [value / scale for value, scale in zip(solve(a, b), scales, strict=True)]


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _quadratic(u: list[float], a: list[list[float]]) -> float:
    return sum(u[i] * _dot(a[i], u) for i in range(len(u)))
