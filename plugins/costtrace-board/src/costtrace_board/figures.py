"""A benchmark's throughput as cost per million tokens: which tokens, of how many GPUs, at whose price, from where.

    cost per million tokens = price per GPU-hour x 1,000,000 / (tokens/s/GPU x 3,600)

All of it is exact (`Fraction` from decimal text); rounding happens where a figure is shown. A figure states a
throughput only for the token bases that its source states: no basis is ever made out of another one.
"""

from collections.abc import Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.errors import CosttraceError

BASES = ("total", "input", "output")
"""Which tokens are counted: total is input and output together."""

SECONDS_PER_HOUR = 3_600


class FigureRefused(CosttraceError):
    """A row or a question that cannot become an honest figure; the message says why."""


class Provenance(NamedTuple):
    """Where a figure is from."""

    format: str
    """``mlperf``, ``inferencex``, ``artificial-analysis``, ``vllm-bench``, ``aiperf``, ``guidellm``, ``csv``."""
    file: str
    row: str
    """What finds the row again in the file."""
    source: str = ""
    """Who measured it: submitter, round, page."""
    date: str = ""
    terms: str = ""
    """What has to be said with it."""


class Figure(NamedTuple):
    """One measured operating point of a whole system. Throughputs are tokens/s of all its GPUs together."""

    provenance: Provenance
    model: str
    hardware: str
    gpus: int
    """GPUs of the whole system, not of a node."""
    total: Decimal | None = None
    input: Decimal | None = None
    output: Decimal | None = None
    """Tokens/s by token basis; None: the source does not state it."""
    interactivity: Decimal | None = None
    """Output tokens/s that one user sees."""
    concurrency: int | None = None
    scenario: str = ""
    software: str = ""
    precision: str = ""
    watts: Decimal | None = None
    """Power of the whole system while it ran."""
    notes: tuple[str, ...] = ()

    def tokens_per_s(self, basis: str) -> Fraction:
        """Tokens/s of the system. Raises: FigureRefused, where the source does not state that basis."""
        value = {"total": self.total, "input": self.input, "output": self.output}[basis]
        if value is None:
            stated = [name for name in BASES if getattr(self, name) is not None]
            raise FigureRefused(
                f"token basis mismatch: {self.name} states {' and '.join(stated)} tokens, not {basis} tokens. A figure "
                f"per {basis} token cannot be made of it: ask for --basis {stated[0]}, or take a source that counts "
                f"{basis} tokens."
            )
        return Fraction(value)

    def per_gpu(self, basis: str) -> Fraction:
        """Tokens/s/GPU. Raises: FigureRefused."""
        return self.tokens_per_s(basis) / self.gpus

    @property
    def name(self) -> str:
        """What messages call it."""
        scenario = f" {self.scenario}" if self.scenario else ""
        return f"{self.model} on {self.gpus} x {self.hardware}{scenario} ({self.provenance.format})"

    @property
    def bases(self) -> tuple[str, ...]:
        """The token bases that its source states."""
        return tuple(name for name in BASES if getattr(self, name) is not None)


class Refusal(NamedTuple):
    """A row that did not become a figure."""

    row: str
    reason: str


class Imported(NamedTuple):
    """What a file holds: every row of interest is in one of the two."""

    figures: tuple[Figure, ...]
    refusals: tuple[Refusal, ...] = ()
    skipped: int = 0
    """Rows that are no LLM throughput at all (images, speech, edge systems)."""


class TierPrice(NamedTuple):
    """What a GPU-hour costs under a named tier, for devices whose name fits."""

    match: str
    per_gpu_hour: Decimal
    source: str = ""


class Tier(NamedTuple):
    """A named price tier: whose cost of a GPU-hour a figure is made with."""

    name: str
    currency: str
    prices: tuple[TierPrice, ...]

    def price(self, hardware: str) -> TierPrice:
        """Raises: FigureRefused, where the tier has no price for that hardware."""
        found = [entry for entry in self.prices if fnmatchcase(hardware.casefold(), entry.match.casefold())]
        if not found:
            raise FigureRefused(f"tier {self.name} has no price for {hardware!r}: give one, as --tier {self.name}=2.10")
        return max(found, key=lambda entry: len(entry.match.replace("*", "")))


class Priced(NamedTuple):
    """A figure under a tier."""

    figure: Figure
    tier: str
    currency: str
    price: TierPrice
    basis: str
    per_million: Fraction
    """Currency units per million tokens of `basis`."""


def cost_per_million(per_gpu_hour: Decimal | Fraction, tokens_per_s_per_gpu: Decimal | Fraction | int) -> Fraction:
    """Currency units per million tokens; whose tokens were counted is whose basis it has. Raises: FigureRefused."""
    if tokens_per_s_per_gpu <= 0:
        raise FigureRefused("a throughput of 0 tokens/s has no cost per token")
    return Fraction(per_gpu_hour) * 1_000_000 / (Fraction(tokens_per_s_per_gpu) * SECONDS_PER_HOUR)


def price(figure: Figure, tier: Tier | None, basis: str) -> Priced:
    """Cost per million tokens of *figure*. Raises: FigureRefused: no tier, no price, or another token basis."""
    if tier is None:
        raise FigureRefused(
            "no price tier: a throughput becomes a cost only with somebody's price of a GPU-hour. Name one, as "
            "--tier hyperscaler, --tier neocloud, --tier rental_3y (published figures) or --tier mine=2.10 (yours)."
        )
    entry = tier.price(figure.hardware)
    cost = cost_per_million(entry.per_gpu_hour, figure.per_gpu(basis))
    return Priced(figure, tier.name, tier.currency, entry, basis, cost)


def price_all(found: Imported, tier: Tier | None, basis: str) -> tuple[list[Priced], list[Refusal]]:
    """Every figure priced or refused; refusals of the import included. Raises: FigureRefused without a tier."""
    priced: list[Priced] = []
    refusals = list(found.refusals)
    for figure in found.figures:
        try:
            priced.append(price(figure, tier, basis))
        except FigureRefused as refused:
            if tier is None:
                raise
            refusals.append(Refusal(figure.provenance.row, str(refused)))
    return priced, refusals


def same_basis(figures: Sequence[tuple[str, str]]) -> str:
    """The one token basis of (name, basis) pairs that are to be compared. Raises: FigureRefused."""
    bases = {basis for _, basis in figures}
    if len(bases) != 1:
        listed = ", ".join(f"{name} per {basis} token" for name, basis in figures)
        raise FigureRefused(
            f"token basis mismatch: {listed}. A million output tokens and a million total tokens are different goods; "
            "compare figures of one basis."
        )
    return bases.pop()


def rounded(value: Fraction, places: int) -> Decimal:
    """*value* to so many decimal places, half to even."""
    scaled = round(value * 10**places)
    return Decimal(scaled).scaleb(-places)


def significant(value: Fraction, digits: int = 3) -> str:
    """*value* to so many significant digits, never in exponents: ``0.0203``, ``1.95``, ``27,083``."""
    if value == 0:
        return "0"
    exponent = Decimal(value.numerator) / Decimal(value.denominator)
    places = max(0, digits - 1 - exponent.adjusted())
    return f"{rounded(value, places):,f}"
