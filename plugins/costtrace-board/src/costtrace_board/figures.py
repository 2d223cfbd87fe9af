"""A benchmark's throughput as cost per million tokens, with its token basis, GPUs, price tier and provenance.

    cost per million tokens = price per GPU-hour x 1,000,000 / (tokens/s/GPU x 3,600)

All arithmetic is exact (`Fraction` from decimal text); rounding happens where a figure is shown. A figure has a
throughput only for the token bases that its source states: no basis is derived from another.
"""

from collections.abc import Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.errors import CosttraceError

BASES = ("total", "input", "output")
"""The token bases: which tokens are counted. Total is input and output together."""

SECONDS_PER_HOUR = 3_600


class FigureRefused(CosttraceError):
    """A row or a request from which no correct figure can be made; the message says why."""


class Provenance(NamedTuple):
    """Where a figure is from."""

    format: str
    """``mlperf``, ``inferencex``, ``artificial-analysis``, ``vllm-bench``, ``aiperf``, ``guidellm``, ``csv``."""
    file: str
    row: str
    """Identifies the row in the file."""
    source: str = ""
    """Who measured it: submitter, round, page."""
    date: str = ""
    terms: str = ""
    """The terms under which it may be quoted."""


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
    stages: tuple[tuple[str, int], ...] = ()
    """(Hardware, GPUs) of each part, where it runs on different hardware."""

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
        """How messages refer to the figure."""
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
    """The contents of a file: every row of interest is either a figure or a refusal."""

    figures: tuple[Figure, ...]
    refusals: tuple[Refusal, ...] = ()
    skipped: int = 0
    """Rows that are no LLM throughput at all (images, speech, edge systems)."""


class TierPrice(NamedTuple):
    """A tier's price of a GPU-hour, for devices whose name matches a pattern (`fnmatch`, any case)."""

    match: str
    per_gpu_hour: Decimal
    source: str = ""


class Tier(NamedTuple):
    """A named price tier: whose price of a GPU-hour is used."""

    name: str
    currency: str
    prices: tuple[TierPrice, ...]

    def price(self, hardware: str) -> TierPrice:
        """The price whose pattern fits most specifically. Raises: FigureRefused, where none fits."""
        matching = [entry for entry in self.prices if fnmatchcase(hardware.casefold(), entry.match.casefold())]
        if not matching:
            raise FigureRefused(f"tier {self.name} has no price for {hardware!r}: give one, as --tier {self.name}=2.10")
        return max(matching, key=lambda entry: len(entry.match.replace("*", "")))


class Priced(NamedTuple):
    """A figure with its cost under a tier."""

    figure: Figure
    tier: str
    currency: str
    price: TierPrice
    basis: str
    per_million: Fraction
    """Currency units per million tokens of `basis`."""
    per_gpu_hour: Fraction
    """The price that is in it, exactly; a mean where stages have different prices."""


def cost_per_million(per_gpu_hour: Decimal | Fraction, tokens_per_s_per_gpu: Decimal | Fraction | int) -> Fraction:
    """Currency units per million tokens, of the throughput's token basis. Raises: FigureRefused, at 0 tokens/s."""
    if tokens_per_s_per_gpu <= 0:
        raise FigureRefused("a throughput of 0 tokens/s has no cost per token")
    return Fraction(per_gpu_hour) * 1_000_000 / (Fraction(tokens_per_s_per_gpu) * SECONDS_PER_HOUR)


def price(figure: Figure, tier: Tier | None, basis: str) -> Priced:
    """*figure* with its cost per million tokens. Raises: FigureRefused: no tier, no price, or another token basis."""
    if tier is None:
        raise FigureRefused(
            "no price tier: a throughput becomes a cost only with a price of a GPU-hour. Name one, as "
            "--tier hyperscaler, --tier neocloud, --tier rental_3y (published figures) or --tier mine=2.10 (yours)."
        )
    parts = [(gpus, tier.price(hardware)) for hardware, gpus in figure.stages or ((figure.hardware, figure.gpus),)]
    per_hour = sum((Fraction(entry.per_gpu_hour) * gpus for gpus, entry in parts), Fraction(0)) / figure.gpus
    entry = parts[0][1]
    if figure.stages:
        shown = [
            f"{n} x {kind} at {part.per_gpu_hour}" for (kind, n), (_, part) in zip(figure.stages, parts, strict=True)
        ]
        sources = "; ".join(dict.fromkeys(part.source for _, part in parts))
        entry = TierPrice("", rounded(per_hour, 9), f"{', '.join(shown)}: {sources}")
    cost = cost_per_million(per_hour, figure.per_gpu(basis))
    return Priced(figure, tier.name, tier.currency, entry, basis, cost, per_hour)


def price_all(imported: Imported, tier: Tier | None, basis: str) -> tuple[list[Priced], list[Refusal]]:
    """Every figure priced or refused; refusals of the import included. Raises: FigureRefused without a tier."""
    priced: list[Priced] = []
    refusals = list(imported.refusals)
    for figure in imported.figures:
        try:
            priced.append(price(figure, tier, basis))
        except FigureRefused as refused:
            if tier is None:
                raise
            refusals.append(Refusal(figure.provenance.row, str(refused)))
    return priced, refusals


def same_basis(figures: Sequence[tuple[str, str]]) -> str:
    """The common token basis of (name, basis) pairs. Raises: FigureRefused, where they differ."""
    bases = {basis for _, basis in figures}
    if len(bases) != 1:
        listed = ", ".join(f"{name} per {basis} token" for name, basis in figures)
        raise FigureRefused(
            f"token basis mismatch: {listed}. A million output tokens and a million total tokens are different goods; "
            "compare figures of one basis."
        )
    return bases.pop()


def rounded(value: Fraction, places: int) -> Decimal:
    """*value* rounded to *places* decimal places, half to even."""
    scaled = round(value * 10**places)
    return Decimal(scaled).scaleb(-places)


def significant(value: Fraction, digits: int = 3) -> str:
    """*value* to *digits* significant digits, without an exponent: ``0.0203``, ``1.95``, ``27,083``."""
    if value == 0:
        return "0"
    decimal = Decimal(value.numerator) / Decimal(value.denominator)
    places = max(0, digits - 1 - decimal.adjusted())
    return f"{rounded(value, places):,f}"
