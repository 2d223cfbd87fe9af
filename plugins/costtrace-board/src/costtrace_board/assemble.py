"""The gap ladder and the calculator's first values, made from the ledger's cells and a benchmark. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.units import NS_PER_HOUR, NS_PER_S
from costtrace.pricing.list_prices import ListPrice
from costtrace_board import ladder as steps_of
from costtrace_board import roi
from costtrace_board.cells import Cell
from costtrace_board.figures import FigureRefused, Imported, Tier, price, rounded, significant
from costtrace_board.ladder import Ladder, Phases, Step, unknown

CLAIMED = "the published claim (GB200 NVL72, DeepSeek-R1), not yours"
MEASURED = "measured, from the ledger"


class Benchmark(NamedTuple):
    """The benchmark that a ladder starts from."""

    name: str
    basis: str
    currency: str
    peak: Fraction
    """Currency units per million tokens at the peak."""
    per_gpu_hour: Fraction | None = None
    """The price that is in `peak`."""
    mix: tuple[Fraction, Fraction] | None = None
    """Input and output tokens of its requests, in any common unit."""
    service: Fraction | None = None
    """Currency units per million tokens at the wanted interactivity."""
    service_source: str = ""


def benchmark_of(imported: Imported, tier: Tier, basis: str, model: str, interactivity: Decimal | None) -> Benchmark:
    """The cheapest figure of a model, and the cheapest that reaches *interactivity*. Raises: FigureRefused."""
    priced = [price(figure, tier, basis) for figure in imported.figures if figure.model == model or not model]
    if not priced:
        models = ", ".join(sorted({figure.model for figure in imported.figures}))
        raise FigureRefused(f"the benchmark has no figure of {model!r}: it has {models or 'none'}")
    peak = min(priced, key=lambda candidate: candidate.per_million)
    service, source = None, ""
    if interactivity is not None:
        fast_enough = [
            candidate
            for candidate in priced
            if candidate.figure.interactivity and candidate.figure.interactivity >= interactivity
        ]
        if fast_enough:
            best = min(fast_enough, key=lambda candidate: candidate.per_million)
            service = best.per_million
            source = f"the cheapest run with {interactivity} tokens/s/user or more: {best.figure.provenance.row}"
        else:
            source = f"no run of the benchmark states {interactivity} tokens/s/user or more"
    return Benchmark(
        f"benchmark peak ({tier.name})",
        basis,
        tier.currency,
        peak.per_million,
        peak.per_gpu_hour,
        _mix(peak.figure.scenario),
        service,
        source,
    )


def _mix(scenario: str) -> tuple[Fraction, Fraction] | None:
    """Input and output tokens of a scenario written as ``1024/1024``; None of any other."""
    inputs, _, outputs = scenario.partition("/")
    if not (inputs.isascii() and inputs.isdecimal() and outputs.isascii() and outputs.isdecimal()):
        return None
    return (Fraction(int(inputs)), Fraction(int(outputs))) if int(outputs) else None


class Production(NamedTuple):
    """Production's side of the ladder: one model, over the whole period."""

    name: str
    cell: Cell
    hours: Sequence[tuple[int, int]]
    """For each hour: device time (ns), and tokens of the ladder's basis."""
    idle_ns: int
    overhead_ns: int
    """The two parts of `cell.idle`: idle, and overhead or unobserved."""


def climb(start: Benchmark, production: Production) -> Ladder:
    """The ladder from *start* to production.

    Raises: FigureRefused: production's cost is unknown, or the two ends differ in currency or token basis.
    """
    cell = production.cell
    if cell.currency != start.currency:
        raise FigureRefused(f"the benchmark is in {start.currency}, production in {cell.currency or 'no currency'}")
    end = cell.per_million(start.basis, with_idle=True)
    if end is None:
        raise FigureRefused("production's cost is not known in full, or it has no tokens: there is no ladder")
    line = cell.direct
    phases = Phases(line.input_tokens, line.cached_tokens, line.output_tokens, line.prefill_ns, line.decode_ns)
    if start.mix is None:
        needs = "needs the benchmark's input and output lengths: --benchmark-mix 1000:1000"
        mix, cache = unknown("traffic mix", needs), unknown("prefix cache", needs)
        if line.input_tokens > line.cached_tokens:
            cache = steps_of.mix_and_cache(phases, Fraction(1), Fraction(1), start.basis)[1]
    else:
        mix, cache = steps_of.mix_and_cache(phases, *start.mix, start.basis)
    busy_ns, idle_ns, overhead_ns = line.gpu_ns, production.idle_ns, production.overhead_ns
    steps = [
        _service(start),
        mix,
        cache,
        steps_of.occupancy(production.hours),
        steps_of.ratio_step(
            "idle",
            busy_ns,
            busy_ns + idle_ns,
            f"{significant(Fraction(idle_ns, NS_PER_HOUR))} idle GPU-hours",
            "needs device time",
        ),
        _tier(start, cell),
        steps_of.ratio_step(
            "overhead",
            busy_ns + idle_ns,
            busy_ns + idle_ns + overhead_ns,
            f"{significant(Fraction(overhead_ns, NS_PER_HOUR))} GPU-hours of start-up and unobserved time",
            "needs device time",
        ),
    ]
    return steps_of.build(
        (start.name, start.basis, start.peak), (production.name, start.basis, end), steps, start.currency
    )


def _service(start: Benchmark) -> Step:
    if start.service is None:
        needs = start.service_source or "needs the benchmark's figure at your interactivity: --interactivity, --service"
        return unknown("service level", needs)
    return Step("service level", start.service / start.peak, "stated", start.service_source)


def _tier(start: Benchmark, cell: Cell) -> Step:
    needs = "needs the price per GPU-hour that is in the benchmark's figure: --peak-price"
    cost, gpu_ns = cell.cost_nano(with_idle=True), cell.direct.gpu_ns + cell.idle.gpu_ns
    if start.per_gpu_hour is None or not cost or not gpu_ns:
        return unknown("price tier", needs)
    mean = Fraction(cost * NS_PER_HOUR, gpu_ns * 10**9)
    text = f"{rounded(mean, 4):f} per GPU-hour here, {rounded(start.per_gpu_hour, 4):f} in the benchmark"
    return Step("price tier", mean / start.per_gpu_hour, "measured", text)


def list_price_of_output(
    models: Sequence[Cell], prices: Mapping[str, ListPrice], revenues: Mapping[str, Decimal]
) -> tuple[Decimal | None, str]:
    """Mean price of a million output tokens as sold, and its source; None where a model has neither price nor revenue.

    A stated revenue counts in full, though input tokens earned a part of it: the price per output token is then high.
    """
    sold = [cell for cell in models if cell.direct.output_tokens]
    if not sold or any(cell.model not in prices and cell.model not in revenues for cell in sold):
        return None, ""
    tokens = sum(cell.direct.output_tokens for cell in sold)
    listed = [cell for cell in sold if cell.model not in revenues]
    list_revenue = sum(
        (Fraction(prices[cell.model].per_million_output) * cell.direct.output_tokens for cell in listed),
        Fraction(0),
    )
    with_revenue = {cell.model for cell in sold} & set(revenues)
    stated_revenue = sum((Fraction(revenues[model]) * 1_000_000 for model in with_revenue), Fraction(0))
    source = "the revenue given over output tokens" if stated_revenue else "mean list price of the output tokens sold"
    return rounded((list_revenue + stated_revenue) / tokens, 4), source


def assumptions(
    total: Cell | None, gpus: int, list_price: tuple[Decimal | None, str], given: Mapping[str, Decimal]
) -> tuple[roi.Assumptions, dict[str, str]]:
    """The calculator's first values with their sources: as given, else measured, else from the published claim."""
    base = roi.Assumptions()
    values: dict[str, Decimal | int] = dict(base._asdict())
    sources = dict.fromkeys(values, CLAIMED)
    measured: dict[str, Decimal | int] = {}
    if total is not None and total.direct.gpu_ns and total.direct.output_tokens:
        busy_ns, all_ns = total.direct.gpu_ns, total.direct.gpu_ns + total.idle.gpu_ns
        rate = Fraction(total.direct.output_tokens * gpus * NS_PER_S, busy_ns)
        measured = {
            "gpus": gpus,
            "tokens_per_s": rounded(rate, 0),
            "utilisation": rounded(Fraction(busy_ns, all_ns), 4),
        }
        cost = total.cost_nano(with_idle=True)
        if cost:
            measured["per_gpu_hour"] = rounded(Fraction(cost * NS_PER_HOUR, all_ns * 10**9), 4)
    values.update(measured)
    sources.update(dict.fromkeys(measured, MEASURED))
    output_price, source = list_price
    if output_price is not None:
        values["price_per_million"], sources["price_per_million"] = output_price, source
    values.update(given)
    sources.update(dict.fromkeys(given, "as given"))
    values["gpus"], values["years"] = int(values["gpus"]), int(values["years"])
    return roi.Assumptions(**values), sources  # type: ignore[arg-type] # fields of the calculator, by name
