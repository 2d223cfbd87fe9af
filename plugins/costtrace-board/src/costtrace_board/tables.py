"""Benchmark figures, published points, claims and ladders as tables."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from costtrace.reports.output.row_tables import Column, Table, row_table, text
from costtrace.reports.output.tables import Row
from costtrace_board.claims import Claim
from costtrace_board.figures import Priced, Refusal, rounded, significant
from costtrace_board.ladder import Ladder
from costtrace_board.published import GPU_COSTS, POINTS, TCO_SOURCE

PLACES = 9


def exact(value: Fraction | None) -> Decimal | None:
    """A fraction to the nine decimal places that JSON and CSV have."""
    return None if value is None else rounded(value, PLACES)


def decimals(heading: str, key: str, digits: int = 3) -> Column:
    """A column of decimals to some significant digits; ``unknown`` where there is no figure."""

    def show(row: Row) -> str:
        value = row[key]
        return significant(Fraction(value), digits) if isinstance(value, Decimal) else "unknown"

    return Column(heading, show)


def benchmark_tables(priced: Sequence[Priced], refusals: Sequence[Refusal]) -> list[Table]:
    """Benchmark figures as costs per million tokens, and the rows that were refused."""
    rows = [_priced_row(entry) for entry in priced]
    basis = priced[0].basis if priced else ""
    currency = priced[0].currency if priced else ""
    terms = sorted({entry.figure.provenance.terms for entry in priced} - {""})
    columns: tuple[Column, ...] = (
        text("model", "model"),
        text("hardware", "hardware"),
        Column("GPUs", lambda row: str(row["gpus"])),
        text("scenario", "scenario"),
        decimals(f"{basis} tokens/s/GPU", "tokens_per_s_per_gpu"),
        Column("tok/s/user", lambda row: _plain(row["interactivity_tokens_per_s_per_user"])),
        Column(f"{currency}/GPU-hour", lambda row: str(row["per_gpu_hour"])),
        text("tier", "tier"),
        decimals(f"{currency} per million {basis} tokens", "cost_per_million_tokens"),
        text("source", "source"),
    )
    tables = [row_table("figures", "Cost per million tokens of benchmarks", columns, rows, terms, fields=FIGURE_FIELDS)]
    if refusals:
        refused: list[Row] = [{"row": entry.row, "reason": entry.reason} for entry in refusals]
        tables.append(row_table("refused", "Refused", (text("row", "row"), text("reason", "reason")), refused))
    return tables


def _plain(value: object) -> str:
    return significant(Fraction(value)) if isinstance(value, Decimal) else ""


def _priced_row(priced: Priced) -> Row:
    figure = priced.figure
    return {
        "model": figure.model,
        "hardware": figure.hardware,
        "gpus": figure.gpus,
        "scenario": figure.scenario,
        "software": figure.software,
        "precision": figure.precision,
        "token_basis": priced.basis,
        "tokens_per_s": exact(figure.tokens_per_s(priced.basis)),
        "tokens_per_s_per_gpu": exact(figure.per_gpu(priced.basis)),
        "interactivity_tokens_per_s_per_user": figure.interactivity,
        "concurrency": figure.concurrency,
        "joules_per_token": exact(Fraction(figure.watts) / figure.tokens_per_s(priced.basis)) if figure.watts else None,
        "tier": priced.tier,
        "currency": priced.currency,
        "per_gpu_hour": priced.price.per_gpu_hour,
        "price_source": priced.price.source,
        "cost_per_million_tokens": exact(priced.per_million),
        "format": figure.provenance.format,
        "file": figure.provenance.file,
        "row": figure.provenance.row,
        "source": figure.provenance.source,
        "date": figure.provenance.date,
        "terms": figure.provenance.terms,
        "notes": figure.notes,
    }


FIGURE_FIELDS = (
    "model", "hardware", "gpus", "scenario", "software", "precision", "token_basis", "tokens_per_s",
    "tokens_per_s_per_gpu", "interactivity_tokens_per_s_per_user", "concurrency", "joules_per_token", "tier",
    "currency", "per_gpu_hour", "price_source", "cost_per_million_tokens", "format", "file", "row", "source", "date",
    "terms", "notes",
)  # fmt: skip
"""Names the columns of JSON and CSV where no row does."""


def claims_tables(claims: Sequence[Claim]) -> list[Table]:
    """Every check with its inputs, then what each claim leaves out."""
    rows: list[Row] = [
        {
            "claim": claim.key,
            "what": check.what,
            "inputs": check.inputs,
            "token_basis": check.basis,
            "published": check.published,
            "computed": check.computed,
            "unit": check.unit,
            "reproduced": check.reproduced,
            "source": check.source,
        }
        for claim in claims
        for check in claim.checks
    ]
    columns: tuple[Column, ...] = (
        text("claim", "claim"),
        text("what", "what"),
        text("tokens", "token_basis"),
        Column("published", lambda row: str(row["published"])),
        Column("computed", lambda row: f"{row['computed']:,}"),
        text("unit", "unit"),
        Column("met", _met, right=False),
        text("from", "inputs"),
    )
    omissions: list[Row] = [
        {"claim": claim.key, "statement": claim.statement, "leaves_out": point}
        for claim in claims
        for point in claim.leaves_out
    ]
    return [
        row_table("checks", "Published claims, computed again", columns, rows),
        row_table(
            "leaves_out",
            "What the headlines leave out",
            (text("claim", "claim"), text("", "leaves_out")),
            omissions,
        ),
    ]


def _met(row: Row) -> str:
    return "derived" if row["reproduced"] is None else "yes" if row["reproduced"] else "NO"


def published_tables() -> list[Table]:
    """Reference points, and the prices of the published tiers."""
    points: list[Row] = [dict(point._asdict()) for point in POINTS]
    names = ("model", "hardware", "figure", "basis", "conditions", "date", "source")
    prices: list[Row] = [
        {
            "gpu": gpu.name,
            "hyperscaler": gpu.hyperscaler,
            "neocloud": gpu.neocloud,
            "rental_3y": gpu.rental_3y,
            "kw_per_gpu": gpu.kw_per_gpu,
            "temporary": gpu.temporary,
        }
        for gpu in GPU_COSTS
    ]
    return [
        row_table("points", "Published reference points", [text(name, name) for name in names], points),
        row_table(
            "prices",
            "Published prices, USD per GPU-hour by tier",
            [text("GPU", "gpu"), *(_decimal(name) for name in list(prices[0])[1:5])],
            prices,
            (TCO_SOURCE,),
        ),
    ]


def _decimal(name: str) -> Column:
    return Column(name, lambda row: str(row[name]))


def ladder_table(ladder: Ladder) -> Table:
    """The ladder's steps, their factors, and the cost after each."""
    unit = f"{ladder.currency} per million {ladder.basis} tokens"
    ends = {"factor": None, "token_basis": ladder.basis, "currency": ladder.currency}
    rows: list[Row] = [
        {
            **ends,
            "step": ladder.start_name,
            "how": "stated",
            "cost_per_million_tokens": exact(ladder.start),
            "source": "",
        },
        *(
            {
                "factor": exact(step.factor),
                "token_basis": ladder.basis,
                "currency": ladder.currency,
                "step": step.name,
                "how": step.how,
                "cost_per_million_tokens": exact(step.after),
                "source": step.source,
            }
            for step in ladder.steps
        ),
        {
            **ends,
            "factor": exact(ladder.gap),
            "step": ladder.end_name,
            "how": "measured",
            "cost_per_million_tokens": exact(ladder.end),
            "source": "factor: the product of all steps",
        },
    ]
    columns: tuple[Column, ...] = (
        text("step", "step"),
        Column("factor", _factor),
        decimals(unit, "cost_per_million_tokens"),
        text("how", "how"),
        text("from", "source"),
    )
    return row_table("ladder", "From the benchmark to production", columns, rows)


def _factor(row: Row) -> str:
    value = row["factor"]
    return (
        f"x {significant(Fraction(value))}"
        if isinstance(value, Decimal)
        else "unknown"
        if row["how"] == "unknown"
        else ""
    )
