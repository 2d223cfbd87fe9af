"""The gap ladder: from a benchmark's cost per million tokens to production's, step by step.

Each known step is a factor, measured in the ledger or stated by the user. A step of which nothing is known stays
unknown. What remains between the product of the known steps and production's figure is one last step, the rest. So the
factors always multiply to the whole gap, exactly, and nothing unknown is shown as 1.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from costtrace_board.figures import FigureRefused, same_basis

How = Literal["measured", "stated", "unknown", "rest"]

STEPS = {
    "service level": "from the benchmark's peak to the interactivity that users get",
    "traffic mix": "input:output ratio of production against the benchmark's",
    "prefix cache": "prompt tokens that were found in the cache and not computed",
    "batch occupancy": "the hours of the day with small batches, against the cheapest hours",
    "idle": "GPUs that were held and did nothing",
    "price tier": "production's price of a GPU-hour against the benchmark's",
    "overhead": "start-up, dummy batches, and time that was not observed",
}
"""The steps in their order, with what each is."""
REST = "not explained"


class Step(NamedTuple):
    """One factor between the benchmark and production."""

    name: str
    factor: Fraction | None
    """Cost after the step over cost before it; None: unknown."""
    how: How
    source: str
    """Where the factor comes from, or what it would need."""
    after: Fraction | None = None
    """Cost per million tokens after this step and the known ones before it; None for an unknown one."""


class Ladder(NamedTuple):
    """The steps from a benchmark's cost per million tokens to production's."""

    basis: str
    currency: str
    start_name: str
    start: Fraction
    steps: tuple[Step, ...]
    end_name: str
    end: Fraction

    @property
    def gap(self) -> Fraction:
        """Production over benchmark."""
        return self.end / self.start


def build(
    start: tuple[str, str, Fraction], end: tuple[str, str, Fraction], steps: Sequence[Step], currency: str
) -> Ladder:
    """A ladder between two ends, each a (name, token basis, cost per million tokens).

    The steps keep their order; an unknown step does not move the level, and the rest closes the gap exactly.
    Raises: FigureRefused: different token bases, or a cost or factor that is not above 0.
    """
    basis = same_basis([start[:2], end[:2]])
    if start[2] <= 0 or end[2] <= 0:
        raise FigureRefused("a ladder needs a cost above 0 at both ends")
    level = start[2]
    placed: list[Step] = []
    for step in steps:
        if step.factor is None:
            placed.append(step)
            continue
        if step.factor <= 0:
            raise FigureRefused(f"the factor of {step.name} is {step.factor}: it has to be above 0")
        level *= step.factor
        placed.append(step._replace(after=level))
    unknown_steps = [step.name for step in steps if step.factor is None]
    names = f", with {' and '.join(unknown_steps)} in it" if unknown_steps else ""
    rest = Step(REST, end[2] / level, "rest", f"what no step above accounts for{names}", end[2])
    return Ladder(basis, currency, start[0], start[2], (*placed, rest), end[0], end[2])


def unknown(name: str, needs: str) -> Step:
    """A step of which nothing is known, and what it would need."""
    return Step(name, None, "unknown", needs)


class Phases(NamedTuple):
    """What production computed: the sums from which its steps are made. Device time is independent of prices."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    prefill_ns: int
    decode_ns: int


def mix_and_cache(used: Phases, benchmark_input: Fraction, benchmark_output: Fraction, basis: str) -> tuple[Step, Step]:
    """The traffic mix and the prefix cache, from the device time of a computed prompt token and of an output token.

    The mix compares production's tokens with the benchmark's (in any common unit), both without cache; the cache step
    then takes out what was not computed. The mix is wrong where a token's cost depends strongly on the length of its
    context: the benchmark's tokens are valued at production's lengths too.
    """
    computed = used.input_tokens - used.cached_tokens
    if computed <= 0 or used.output_tokens <= 0 or used.prefill_ns + used.decode_ns <= 0:
        needs = "needs requests with computed prompt tokens and output tokens"
        return unknown("traffic mix", needs), unknown("prefix cache", needs)
    per_input = Fraction(used.prefill_ns, computed)
    per_output = Fraction(used.decode_ns, used.output_tokens)

    def cost_per_token(inputs: Fraction, outputs: Fraction) -> Fraction:
        counted = {"total": inputs + outputs, "input": inputs, "output": outputs}[basis]
        return (inputs * per_input + outputs * per_output) / counted

    uncached_cost = cost_per_token(Fraction(used.input_tokens), Fraction(used.output_tokens))
    benchmark_cost = cost_per_token(benchmark_input, benchmark_output)
    if not uncached_cost or not benchmark_cost:
        return unknown("traffic mix", "needs a cost above 0"), unknown("prefix cache", "needs a cost above 0")
    ratio = Fraction(used.input_tokens, used.output_tokens)
    mix = Step(
        "traffic mix",
        uncached_cost / benchmark_cost,
        "measured",
        f"input:output {float(ratio):.2f} here, {float(benchmark_input / benchmark_output):.2f} in the benchmark",
    )
    counted = {
        "total": used.input_tokens + used.output_tokens,
        "input": used.input_tokens,
        "output": used.output_tokens,
    }[basis]
    direct = Fraction(used.prefill_ns + used.decode_ns, counted)
    share = 100 * used.cached_tokens / used.input_tokens
    return mix, Step(
        "prefix cache", direct / uncached_cost, "measured", f"{share:.1f} % of the prompt tokens were cached"
    )


def occupancy(hours: Sequence[tuple[int, int]]) -> Step:
    """Batch occupancy over the day, from (device-ns, tokens) of each hour.

    The reference is the cheapest tenth of all tokens, by the hours in which a token was cheapest. Wrong where the mix
    of requests differs much between the hours.
    """
    cheapest_first = sorted((Fraction(ns, tokens), tokens, ns) for ns, tokens in hours if tokens > 0 and ns > 0)
    if len(cheapest_first) < 4:
        return unknown("batch occupancy", "needs at least four hours with requests")
    tokens = sum(count for _, count, _ in cheapest_first)
    best_ns, best_tokens = 0, 0
    for _, count, ns in cheapest_first:
        best_ns, best_tokens = best_ns + ns, best_tokens + count
        if best_tokens * 10 >= tokens:
            break
    factor = Fraction(sum(ns for *_, ns in cheapest_first), tokens) / Fraction(best_ns, best_tokens)
    source = "mean device time per token over that of the cheapest tenth of all tokens, by hour"
    return Step("batch occupancy", factor, "measured", source)


def ratio_step(name: str, before: int | Fraction, after: int | Fraction, source: str, needs: str) -> Step:
    """A step that is a ratio of two sums of the ledger; unknown where one of them is not above 0."""
    if before <= 0 or after <= 0:
        return unknown(name, needs)
    return Step(name, Fraction(after) / Fraction(before), "measured", source)
