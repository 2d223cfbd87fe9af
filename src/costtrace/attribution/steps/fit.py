"""Learn what a step costs from the steps themselves: one `StepFit` for each engine, fed its steps in order.

The model of `cost_model` is linear once the knee (in tokens) is chosen, so it is fitted for a handful of knees at once:
weighted least squares on running sums, non-negative, with forgetting, drawn to the prior where the steps say nothing.
The knee 0 is the affine model. Residuals are relative: a step of 5 ms counts as much as one of 500 ms.

An outlier (garbage collection, capture of a CUDA graph) counts with no more than a multiple of the usual error (Huber).
A drift of all residuals to one side (throttled clocks, another model) restarts the fit from what it has learned.

All state is in the fields, and the fit is a pure function of the steps: the same journal gives the same prices,
wherever an agent was killed in between. A step costs a fixed number of additions; few of the steady ones are looked at.
"""

import msgspec

from costtrace.attribution.steps.cost_model import Coefficients, Features, cover
from costtrace.attribution.steps.fit_sums import DECODE, KNEES, SHARED, Equations, Errors, Shared, Sums
from costtrace.attribution.steps.least_squares import objective, solve
from costtrace.core.rows import METHODS

RIDGE = 0.02
"""Weight of the prior, in steps of typical size."""
RIDGE_DECODE = 0.1
"""The same for what a step does once for its decodes. As long as all steps decode it cannot be separated from what
every step does, and is counted there; a few steps without any decode separate them."""
WARM = 64
"""Steps before the fit is believed, outliers are recognised, and the ladder may move."""
SOLVE_EVERY = 128
EARLY = frozenset({1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96})
"""The fit is solved after so many steps looked at, then after each `SOLVE_EVERY`."""
ALL_UNTIL = 512
"""So many steps are all looked at; then one in `STRIDE` of the steady ones (nobody joined, left or was prefilled)."""
STRIDE = 8
OUTLIER = 4.0
"""Residuals are clipped at this many usual errors (`StepFit.spread`), or at `LEAST_OUTLIER` if that is more."""
LEAST_OUTLIER = 0.05
"""The least relative error at which residuals are clipped."""
LEAST_CHANGE = 0.2
"""Drift is measured in clipping limits of at least this: a phase of work that the model gets wrong is no change."""
DRIFT_SLACK = 0.3
DRIFT = 8.0
"""Sum of one-sided residuals (in clipping limits, less the slack for each step) at which the engine has changed."""
RECENT = 15
"""The newest steps, whose median says by how much the engine has changed."""
REMEMBERED = 64.0
"""All steps before a change count for no more than this many of each kind."""
KNEE_MARGIN = 0.02
"""Share of its squared error by which another knee has to be better than the present one."""
DOWN, UP, GOOD = 0.75, 0.95, 0.05
"""The ladder goes down where a lower rung's error is below 0.75 of the present one's (and that is above 5 %), and up
again where a higher one's is below 0.95 of it."""
DWELL = 256
"""Steps looked at between two moves on the ladder."""


class StepFit(msgspec.Struct):
    """One engine's step model, learned online."""

    start: Coefficients
    """The prior, to which the fit is drawn."""
    known: bool = True
    """Whether the prior is of this model's shape; one of a generic shape is not believed before `WARM` steps."""
    device: str = ""
    """The device whose figures the prior is made from."""
    generic: bool = False
    """Whether they are generic figures, because this device is not in the table."""
    knees: list[float] = []
    """`KNEES` in tokens."""
    sums: list[Sums] = msgspec.field(default_factory=lambda: [Sums(), Sums()])
    """Running sums: first of steps that only decode, then of all others."""
    knee: int = KNEES.index(1.0)
    """Place of the knee that fits best."""
    roofline: Coefficients | None = None
    affine: Coefficients | None = None
    """None: not solved yet."""
    per_token: float = 0.0
    per_sequence: float = 0.0
    """Seconds, by the two lowest rungs."""
    observations: int = 0
    """Steps looked at."""
    spread: float = 0.5
    """The usual relative error: the scale of outliers."""
    recent: list[float] = []
    """Time over expected time, of the newest steps."""
    drift_up: float = 0.0
    drift_down: float = 0.0
    errors: Errors = msgspec.field(default_factory=Errors)
    rung: int = 0
    moved: int = 0
    """Steps looked at since the last move on the ladder."""
    outliers: int = 0
    changes: int = 0
    moves: int = 0
    fitted_ns: int = 0
    step_ns: int = 0
    """All step time, and (`fitted_ns`) the part that was shared by a fit: not by the prior, not by a lower rung."""

    def __post_init__(self) -> None:
        if not self.knees:
            middle = self.start.weights / self.start.token if self.start.token > 0 else 256.0
            self.knees = [part * middle for part in KNEES]
            self.rung = 0 if self.known else METHODS.index("tokens")

    # -- what it says -------------------------------------------------------------------------------------------

    def trusted(self) -> bool:
        """Whether it has seen enough steps to be believed."""
        return self.observations >= WARM

    def method(self, asked: str) -> str:
        """The rung that a step is shared by. *asked*: one of them, or ``auto``: the best by measured fit."""
        if asked == "auto":
            return METHODS[self.rung]
        if asked in {"roofline", "affine"} and not self.known and not self.trusted():
            return "tokens"
        return asked

    def coefficients(self, method: str) -> Coefficients:
        """Coefficients of a method's model, as they are now."""
        if method == "affine" and self.affine is not None:
            return self.affine
        return self.roofline or self.start

    # -- learning -----------------------------------------------------------------------------------------------

    def observe(self, step: Features, took_ns: int, *, steady: bool, index: int, method: str) -> None:
        """Learn from a step that is over. *steady*: the sequences of the step before decoded, and nothing else."""
        self.step_ns += took_ns
        if self.observations >= WARM and method in {"roofline", "affine"}:
            self.fitted_ns += took_ns
        if took_ns <= 0 or (steady and index % STRIDE and self.observations >= ALL_UNTIL):
            return
        y = took_ns * 1e-9
        x, tokens = self._regressors(step)
        guesses = self._guess(step, x, tokens)
        if self.roofline is not None:
            self.errors.add([abs(guess - y) / y for guess in guesses])
        y, weight = self._clip(guesses[0], y)
        self.sums[int(step.tokens != step.sequences or step.attention > 0)].add(x, tokens, y, weight)
        self.observations += 1
        self.moved += 1
        if self.drift_up > DRIFT or self.drift_down > DRIFT:
            self._restart()
        elif self.observations in EARLY or self.observations % SOLVE_EVERY == 0:
            self._solve()
            self._climb()

    def _regressors(self, step: Features) -> tuple[Shared, list[float]]:
        """Regressors that all knees share, and the token regressor for each knee."""
        read = cover(self.start, step.tokens)
        totals = (float(step.sequences), float(step.context), float(step.attention), float(step.encoder))
        any_prompt, any_decode = step.prompts > 0, step.sequences > step.prompts
        shared = (1.0, *totals, float(any_prompt), float(any_decode))
        return shared, [max(float(step.tokens), knee * read) for knee in self.knees]

    def _guess(self, step: Features, x: Shared, tokens: list[float]) -> list[float]:
        """Seconds that a step is expected to take, by the present model of each rung."""
        affine = self.affine or self.start
        return [
            _predict(self.roofline or self.start, x, tokens[self.knee]),
            _predict(affine, x, tokens[0]) + affine.weights,
            self.per_token * step.tokens,
            self.per_sequence * step.sequences,
        ]

    def _clip(self, expected: float, y: float) -> tuple[float, float]:
        """The time that a step counts with, clipped if it is an outlier, and its weight."""
        if self.observations < WARM or expected <= 0.0:
            # The level is not known yet. Relative to the larger of both, no step can pull by more than its own size.
            scale = max(expected, y) if self.roofline is not None else y
            self._widen(abs(y - expected) / scale, 1.0)
            return y, 1.0 / (scale * scale)
        residual = (y - expected) / expected
        self.recent = [*self.recent[1 - RECENT :], y / expected]
        limit = max(OUTLIER * self.spread, LEAST_OUTLIER)
        self.outliers += abs(residual) > limit
        self._widen(abs(residual), limit)
        clipped = max(-limit, min(limit, residual))
        lean = clipped / max(limit, LEAST_CHANGE)
        self.drift_up = max(0.0, self.drift_up + lean - DRIFT_SLACK)
        self.drift_down = max(0.0, self.drift_down - lean - DRIFT_SLACK)
        return expected * (1.0 + clipped), 1.0 / (expected * expected)

    def _widen(self, error: float, limit: float) -> None:
        self.spread += 0.02 * (min(error, limit) - self.spread)

    def _restart(self) -> None:
        """Start again after a change: the engine is slower or faster as a whole, perhaps in its proportions too.

        What was learned is taken over at the new level, and counts for few steps.
        """
        ratio = sorted(self.recent)[len(self.recent) // 2]
        self.changes += 1
        for sums in self.sums:
            sums.slow_down(ratio, REMEMBERED)
        if self.roofline is not None and self.affine is not None:
            self.roofline, self.affine = slower(self.roofline, ratio), slower(self.affine, ratio)
        self.per_token *= ratio
        self.per_sequence *= ratio
        self.drift_up = self.drift_down = 0.0
        self.spread = max(self.spread, 0.1)

    def _climb(self) -> None:
        """Move on the ladder, if another rung fits clearly better."""
        if not self.trusted() or (self.moved < DWELL and self.moves):
            return
        errors = [self.errors.mean(rung) or 0.0 for rung in range(len(METHODS))]
        now = errors[self.rung]
        higher = next((rung for rung in range(self.rung) if errors[rung] <= UP * now), None)
        lower = [rung for rung in range(self.rung + 1, len(METHODS)) if now > GOOD and errors[rung] < DOWN * now]
        target = higher if higher is not None else min(lower, key=errors.__getitem__, default=self.rung)
        if target != self.rung:
            self.rung, self.moved = target, 0
            self.moves += 1

    # -- the solution -------------------------------------------------------------------------------------------

    def _solve(self) -> None:
        # All knees at first and at times; otherwise the affine model, and the present knee with its neighbours.
        near = {0, self.knee, max(1, self.knee - 1), min(len(KNEES) - 1, self.knee + 1)}
        knees = (
            range(len(KNEES))
            if self.observations in EARLY or self.observations % (4 * SOLVE_EVERY) == 0
            else sorted(near)
        )
        best, solutions = self.knee, {knee: self._solve_knee(knee) for knee in knees}
        for knee in [knee for knee in knees if knee]:
            if solutions[knee][1] < solutions[best][1] * (1.0 - (KNEE_MARGIN if best == self.knee else 0.0)):
                best = knee
        self.knee = best
        self.roofline, self.affine = solutions[best][0], solutions[0][0]
        equations = self._equations(0)
        self.per_token = _ratio(equations.b[SHARED], equations.a[SHARED][SHARED])
        self.per_sequence = _ratio(equations.b[1], equations.a[1][1])

    def _equations(self, knee: int) -> Equations:
        """Normal equations of both kinds of steps together: the shared regressors, then the token regressor."""
        size = SHARED + 1
        a = [[0.0] * size for _ in range(size)]
        b = [0.0] * size
        yy = weight = 0.0
        for sums in self.sums:
            norm = 1.0 / sums.gain
            yy += sums.yy * norm
            weight += sums.weight * norm
            for i in range(SHARED):
                b[i] += sums.xy[i] * norm
                for j in range(i, SHARED):
                    a[i][j] += sums.xx[i * SHARED + j] * norm
                a[i][SHARED] += sums.mx[knee][i] * norm
            a[SHARED][SHARED] += sums.mm[knee] * norm
            b[SHARED] += sums.my[knee] * norm
        for i in range(size):
            for j in range(i):
                a[i][j] = a[j][i]
        return Equations(a, b, yy, weight)

    def _solve_knee(self, knee: int) -> tuple[Coefficients, float]:
        """Coefficients for one knee, and the squared relative error that they leave."""
        equations = self._equations(knee)
        size = SHARED + 1
        scales = [(equations.a[j][j] / equations.weight) ** 0.5 or 1.0 for j in range(size)]
        a = [[equations.a[i][j] / (scales[i] * scales[j]) for j in range(size)] for i in range(size)]
        b = [equations.b[i] / scales[i] for i in range(size)]
        start = [value * scale for value, scale in zip(self._start(knee), scales, strict=True)]
        # Of the prior only the proportions are known: its level is fitted first.
        bend = sum(start[i] * start[j] * a[i][j] for i in range(size) for j in range(size))
        pull = sum(start[i] * b[i] for i in range(size))
        level = pull / bend if bend > 0 and pull > 0 else 1.0
        for i in range(size):
            ridge = RIDGE_DECODE if i == DECODE else RIDGE
            a[i][i] += ridge
            b[i] += ridge * level * start[i]
        u = solve(a, b)
        left = equations.yy + objective(a, b, u) + RIDGE * sum((level * value) ** 2 for value in start)
        return self._named([value / scale for value, scale in zip(u, scales, strict=True)], knee), max(left, 1e-12)

    def _start(self, knee: int) -> list[float]:
        """The prior with its knee moved: half of the difference is put down to compute, half to the weights."""
        c = self.start
        shared = [c.launch, c.sequence, c.context, c.attention, c.encoder, c.prompt, c.decode]
        if not self.knees[knee]:
            return [c.launch + c.weights, *shared[1:], c.token]
        return [*shared, c.token * (c.weights / (c.token * self.knees[knee])) ** 0.5 if c.token > 0 else 0.0]

    def _named(self, u: list[float], knee: int) -> Coefficients:
        """A solution as coefficients."""
        launch, sequence, context, attention, encoder, prompt, decode, token = u
        part, miss = self.start.expert_part, self.start.expert_miss
        if not self.knees[knee]:
            # Without a knee the constant holds the reading of the weights: for experts it is divided as in the prior.
            fixed = self.start.launch + self.start.weights
            weights = launch * self.start.weights / fixed if part and fixed > 0 else 0.0
            launch -= weights
        else:
            weights = token * self.knees[knee]
        return Coefficients(launch, token, weights, context, attention, sequence, encoder, part, miss, prompt, decode)


def _predict(c: Coefficients, x: Shared, tokens: float) -> float:
    """Seconds that a step is expected to take."""
    one, sequences, context, attention, encoder, prompts, decodes = x
    fixed = c.launch * one + c.sequence * sequences + c.context * context + c.attention * attention
    return fixed + c.encoder * encoder + c.prompt * prompts + c.decode * decodes + c.token * tokens


def slower(c: Coefficients, ratio: float) -> Coefficients:
    """The same proportions, *ratio* times as long."""
    longer = Coefficients(*(value * ratio for value in c))
    return longer._replace(expert_part=c.expert_part, expert_miss=c.expert_miss)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
