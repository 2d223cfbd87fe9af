"""A small online regression: non-negative least squares with forgetting, on running sums. Pure Python, deterministic.

Minimises  sum_k lambda**age (y_k - x_k . b)**2 + ridge * sum_j (scale_j * (b_j - prior_j))**2   over b >= 0.

With eight regressors at most the normal equations are a handful of numbers, a solve takes some tens of microseconds,
and no array library's rounding can make two machines disagree.
"""

from collections.abc import Sequence

import msgspec

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
        """The best non-negative coefficients; the prior while nothing has been observed."""
        if not self.weight:
            return list(self.prior)
        if not self.solution:
            self.solution = self._solve()
        return self.solution

    def predict(self, x: list[float]) -> float:
        """The value that the model expects at *x*."""
        return sum(a * b for a, b in zip(x, self.coefficients(), strict=True))

    def residual(self) -> float:
        """Sum of the squared residuals, of the observations that count."""
        if not self.weight:
            return 0.0
        b = self.coefficients()
        return self.yy - 2.0 * _dot(b, self.xy) + _quadratic(b, self.xx)

    def forget(self) -> None:
        """Keep the result as the prior, and drop the observations: they are of another time (other clocks)."""
        self.prior = list(self.coefficients())
        self.xx, self.xy, self.yy, self.weight, self.solution = [], [], 0.0, 0.0, []

    def _solve(self) -> list[float]:
        """Solve on scaled regressors, and exactly: a GPU's (time, busy time, steps) are nearly collinear."""
        size = len(self.prior)
        scales = [(self.xx[j][j] / self.weight) ** 0.5 or 1.0 for j in range(size)]
        a = [[self.xx[i][j] / self.weight / scales[i] / scales[j] for j in range(size)] for i in range(size)]
        b = [self.xy[i] / self.weight / scales[i] for i in range(size)]
        # The prior in the scaled units. Its overall level is free (only its proportions are known): fit that first.
        start = [self.prior[j] * scales[j] for j in range(size)]
        level = _dot(start, b) / (_quadratic(start, a) or 1.0)
        if level > 0:
            start = [value * level for value in start]
        ridge = RIDGE / max(1.0, self.weight)
        for j in range(size):
            a[j][j] += ridge
            b[j] += ridge * start[j]
        return [value / scale for value, scale in zip(solve(a, b), scales, strict=True)]


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _quadratic(u: list[float], a: list[list[float]]) -> float:
    return sum(u[i] * _dot(a[i], u) for i in range(len(u)))


ROUNDS = 24
"""At most so many regressors are let in or put out: with eight of them a few are enough."""
TOLERANCE = 1e-12

Matrix = Sequence[Sequence[float]]


def solve(a: Matrix, b: Sequence[float]) -> list[float]:
    """The best non-negative coefficients.

    Active set: solve for the regressors that are in, put out the most negative one, let in the one that the gradient
    asks for most. If that has not settled after `ROUNDS`, the last solution is returned with its negatives at 0.
    """
    size = len(b)
    inside = list(range(size))
    u = [0.0] * size
    for _ in range(ROUNDS):
        u = [0.0] * size
        for place, value in zip(inside, _cholesky(a, b, inside), strict=True):
            u[place] = value
        lowest = min(inside, key=u.__getitem__, default=-1)
        if lowest >= 0 and u[lowest] < 0.0:
            inside.remove(lowest)
            continue
        outside = [j for j in range(size) if j not in inside]
        pull = {j: b[j] - sum(a[j][i] * u[i] for i in inside) for j in outside}
        best = max(outside, key=pull.__getitem__, default=-1)
        if best < 0 or pull[best] <= TOLERANCE * (1.0 + abs(b[best])):
            return u
        inside = sorted([*inside, best])
    return [max(0.0, value) for value in u]


def objective(a: Matrix, b: Sequence[float], u: Sequence[float]) -> float:
    """``u.A.u - 2 b.u``: what `solve` minimises."""
    total = 0.0
    for i, value in enumerate(u):
        if value:
            row = a[i]
            total += value * (sum(row[j] * other for j, other in enumerate(u) if other) - 2.0 * b[i])
    return total


def _cholesky(a: Matrix, b: Sequence[float], inside: Sequence[int]) -> list[float]:
    """Solve for the regressors *inside* alone, by Cholesky's decomposition."""
    size = len(inside)
    low: list[list[float]] = []
    y: list[float] = []
    for i in range(size):
        row: list[float] = []
        source = a[inside[i]]
        for j in range(i + 1):
            rest = source[inside[j]]
            for k in range(j):
                rest -= row[k] * (low[j][k] if j < i else row[k])
            row.append(max(rest, 1e-300) ** 0.5 if j == i else rest / low[j][j])
        low.append(row)
        y.append((b[inside[i]] - sum(row[k] * y[k] for k in range(i))) / row[i])
    x = [0.0] * size
    for i in range(size - 1, -1, -1):
        x[i] = (y[i] - sum(low[k][i] * x[k] for k in range(i + 1, size))) / low[i][i]
    return x
