"""Non-negative least squares on the normal equations of a few regressors. Pure Python: the same bits on every machine.

Minimises ``u.A.u - 2 b.u`` over ``u >= 0``. *A* is symmetric and positive definite (its caller adds a ridge).
"""

from collections.abc import Sequence

ROUNDS = 24
"""Regressors let in or put out, at most: with six of them it is over after a few."""
TOLERANCE = 1e-12

Matrix = Sequence[Sequence[float]]


def solve(a: Matrix, b: Sequence[float]) -> list[float]:
    """The best non-negative coefficients.

    Active set: solve for those that are in, put out the most negative, let in whom the gradient asks for. If that has
    not settled after `ROUNDS`, what is there is returned with its negatives at 0.
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
    """Solve for the regressors *inside* alone."""
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
