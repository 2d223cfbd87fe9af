"""The board as tables, for its page, JSON and CSV. Every cost names its token basis and whether idle is in it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.units import NANO_PER_UNIT, NS_PER_HOUR
from costtrace.core.wall_time import moment
from costtrace.pricing.list_prices import ListPrice
from costtrace.reports.output.row_tables import Column, Table, count, row_table, text
from costtrace.reports.output.tables import AnyTable, Row, Value, per_cent
from costtrace.reports.usage.summary import Summary
from costtrace.reports.usage.summary_tables import shares_table
from costtrace_board import roi
from costtrace_board.cells import Annotation, Cell, Transaction, group, revenue
from costtrace_board.figures import BASES, rounded, significant
from costtrace_board.ladder import Ladder
from costtrace_board.tables import decimals, exact, ladder_table


class Board(NamedTuple):
    """Everything that the board shows, computed."""

    period: str
    made: str
    simulated: bool
    zone: tzinfo
    summary: Summary
    """By `cells.BY`."""
    days: Sequence[Cell]
    """By model, fleet, day and currency: everything else is a sum of these."""
    annotations: Sequence[Annotation]
    label: str
    transactions: Sequence[Transaction]
    prices: Mapping[str, ListPrice]
    price_source: str
    revenues: Mapping[str, Decimal]
    """By model: its revenue in the whole period, where it was given. Takes precedence over a list price."""
    gpus: int
    """Distinct devices that were metered."""
    gpus_per_rack: int
    ladder: Ladder | None
    ladder_why_not: str
    """Why there is no ladder."""
    assumptions: roi.Assumptions
    assumption_sources: Mapping[str, str]

    @property
    def currency(self) -> str:
        """The currency with the highest cost; '' where nothing has a price."""
        sums: dict[str, int] = {}
        for cell in self.days:
            sums[cell.currency] = sums.get(cell.currency, 0) + (cell.cost_nano(with_idle=True) or 0)
        return max(sums, key=lambda currency: (sums[currency], currency), default="")

    @property
    def months(self) -> list[Cell]:
        """By model, fleet and month."""
        return group(self.days, ("model", "fleet", "month"))

    @property
    def whole(self) -> Cell | None:
        """Everything in the main currency; None of an empty ledger."""
        return next(iter(group([cell for cell in self.days if cell.currency == self.currency], ())), None)


def board_tables(board: Board) -> list[AnyTable]:
    """Every table of the board; CSV holds only the first."""
    tables: list[AnyTable] = [
        cost_table(board),
        trend_table(board),
        shares_table(board.summary),
        transactions_table(board),
        annotations_table(board),
        growth_table(board),
        return_table(board),
    ]
    if board.ladder is not None:
        tables.insert(3, ladder_table(board.ladder))
    return tables


def figures_of(cell: Cell) -> dict[str, Value]:
    """The fields that every table shows of a cell."""
    fields: dict[str, Value] = {
        "currency": cell.currency,
        "requests": cell.direct.requests,
        "input_tokens": cell.direct.input_tokens,
        "cached_tokens": cell.direct.cached_tokens,
        "output_tokens": cell.direct.output_tokens,
        "used_gpu_ns": cell.direct.gpu_ns - cell.direct.wasted_ns,
        "wasted_gpu_ns": cell.direct.wasted_ns,
        "idle_gpu_ns": cell.idle.gpu_ns,
        "cost_without_idle_nano": cell.cost_nano(with_idle=False),
        "cost_with_idle_nano": cell.cost_nano(with_idle=True),
    }
    for basis in BASES:
        for name, with_idle in (("without_idle", False), ("with_idle", True)):
            fields[f"cost_per_million_{basis}_tokens_{name}"] = exact(cell.per_million(basis, with_idle=with_idle))
    for name, with_idle in (("without_idle", False), ("with_idle", True)):
        joules = cell.joules_per_token("output", with_idle=with_idle)
        fields[f"joules_per_output_token_{name}"] = exact(joules)
    return fields


def cost_table(board: Board) -> Table:
    """Cost per million tokens by model, fleet and month, then a total for each currency."""
    months = board.months
    rows: list[Row] = [_cost_row(cell, board) for cell in months]
    totals = group(months, ())
    if len(months) > 1:
        rows += [_cost_row(cell._replace(model="all"), board) for cell in totals]
    notes = (
        "Without idle: what the requests used. With idle: also the idle, overhead and unobserved time of the engines,",
        "shared by each day's device time. Total tokens = input + output. Figures of two bases cannot be compared.",
    )
    title = f"{board.currency} per million output, total and input tokens, without / with idle; J with idle"
    return row_table("cost_per_million_tokens", title, _cost_columns(board), rows, notes)


def _cost_row(cell: Cell, board: Board) -> Row:
    earned = _revenue_of_all(board, cell.currency) if cell.model == "all" else _revenue(cell, board)
    cost = cell.cost_nano(with_idle=True)
    margin = None if earned is None or cost is None else earned - Fraction(cost, NANO_PER_UNIT)
    return {
        "model": cell.model,
        "fleet": cell.fleet,
        "month": cell.period,
        **figures_of(cell),
        "revenue": exact(earned),
        "margin": exact(margin),
        "revenue_per_rack": None
        if earned is None or not board.gpus
        else exact(earned * board.gpus_per_rack / board.gpus),
    }


def _revenue(cell: Cell, board: Board) -> Fraction | None:
    """Revenue of a cell; None without a price, or where a model's revenue was given and it has several cells."""
    if cell.model in board.revenues:
        one_cell = sum(other.model == cell.model for other in board.months) == 1
        return Fraction(board.revenues[cell.model]) if one_cell else None
    return revenue(cell, board.prices.get(cell.model))


def _revenue_of_all(board: Board, currency: str) -> Fraction | None:
    """Revenue of all models; None where a model with tokens has no price."""
    served = {cell.model for cell in board.months if cell.currency == currency and cell.tokens("total")}
    total = sum((Fraction(amount) for model, amount in board.revenues.items() if model in served), Fraction(0))
    for cell in board.months:
        if cell.currency != currency or not cell.tokens("total") or cell.model in board.revenues:
            continue
        earned = revenue(cell, board.prices.get(cell.model))
        if earned is None:
            return None
        total += earned
    return total


def money(heading: str, key: str) -> Column:
    """A column of money as `show_money` writes it; ``unknown`` where there is no figure."""

    def show(row: Row) -> str:
        value = row[key]
        if isinstance(value, int):
            value = Decimal(value).scaleb(-9)
        return show_money(value) if isinstance(value, Decimal) else "unknown"

    return Column(heading, show)


def show_money(value: Decimal) -> str:
    """Whole currency units from 100 up; below, three significant digits, so that a small amount is not shown as 0."""
    return f"{value:,.0f}" if abs(value) >= 100 else significant(Fraction(value), 3)


def _cost_columns(board: Board) -> list[Column]:
    columns: list[Column] = [
        text("model", "model"),
        text("fleet", "fleet"),
        text("month", "month"),
        _pair("M tokens, input / output", "{}_tokens", ("input", "output"), _in_millions),
        *(
            _pair(
                f"per M {basis}",
                f"cost_per_million_{basis}_tokens_{{}}_idle",
                ("without", "with"),
                _significant,
            )
            for basis in ("output", "total", "input")
        ),
        decimals("J per output", "joules_per_output_token_with_idle"),
        Column("used / wasted / idle, %", _use),
        money("cost with idle", "cost_with_idle_nano"),
    ]
    if board.prices or board.revenues:
        columns += [money("revenue", "revenue"), money("margin", "margin")]
    return columns


def _pair(heading: str, key: str, names: tuple[str, str], show: Callable[[Value], str]) -> Column:
    """Two figures of a row in one column."""
    return Column(heading, lambda row: " / ".join(show(row[key.format(name)]) for name in names))


def _significant(value: Value) -> str:
    return significant(Fraction(value)) if isinstance(value, Decimal) else "unknown"


def _in_millions(value: Value) -> str:
    return significant(Fraction(value, 1_000_000)) if isinstance(value, int) and value else "0"


def _use(row: Row) -> str:
    parts = [int(str(row[key])) for key in ("used_gpu_ns", "wasted_gpu_ns", "idle_gpu_ns")]
    total_ns = sum(parts)
    return " / ".join(per_cent(part, total_ns).removesuffix(" %") for part in parts) if total_ns else ""


def trend_table(board: Board) -> Table:
    """Cost per million output tokens by day and model."""
    rows: list[Row] = [
        {"day": cell.period, "model": cell.model, **figures_of(cell)} for cell in group(board.days, ("model", "day"))
    ]
    columns: tuple[Column, ...] = (
        text("day", "day"),
        text("model", "model"),
        decimals("per M output, without idle", "cost_per_million_output_tokens_without_idle"),
        decimals("per M output, with idle", "cost_per_million_output_tokens_with_idle"),
    )
    return row_table("trend", "Cost per million output tokens by day", columns, rows)


def transactions_table(board: Board) -> Table:
    """Mean cost of a request, by the values of the board's label."""
    rows: list[Row] = [
        {
            board.label: labelled.value or "(none)",
            "currency": labelled.currency,
            "requests": labelled.requests,
            "cost_nano": labelled.cost_nano,
            "cost_per_request": exact(_per_request(labelled)),
            "input_tokens": labelled.input_tokens,
            "output_tokens": labelled.output_tokens,
            "gpu_ns": labelled.gpu_ns,
        }
        for labelled in sorted(board.transactions, key=lambda labelled: (-(labelled.cost_nano or 0), labelled.value))
    ]
    columns: tuple[Column, ...] = (
        text(board.label, board.label),
        count("requests", "requests"),
        money(f"cost, {board.currency}", "cost_nano"),
        decimals(f"{board.currency} per request", "cost_per_request"),
        Column("M output tokens", lambda row: _in_millions(row["output_tokens"])),
    )
    notes = [f"Without idle, by the label `{board.label}` of the requests (setting `request_labels`)."]
    with_label = [labelled for labelled in board.transactions if labelled.value and labelled.currency == board.currency]
    if with_label and all(labelled.cost_nano is not None for labelled in with_label):
        mean = Fraction(sum(labelled.cost_nano or 0 for labelled in with_label), len(with_label) * NANO_PER_UNIT)
        notes.append(
            f"{len(with_label):,} values of `{board.label}`: {significant(mean)} {board.currency} each, on average."
        )
    return row_table("transactions", f"Cost of a request, by {board.label}", columns, rows, notes)


def _per_request(sums: Transaction) -> Fraction | None:
    if sums.cost_nano is None or not sums.requests:
        return None
    return Fraction(sums.cost_nano, sums.requests * NANO_PER_UNIT)


def annotations_table(board: Board) -> Table:
    """The annotations, numbered as in the chart."""
    rows: list[Row] = [
        {
            "number": number,
            "day": f"{moment(change.day_ns, board.zone):%Y-%m-%d}",
            "kind": change.kind,
            "what": change.text,
        }
        for number, change in enumerate(board.annotations, 1)
    ]
    columns: tuple[Column, ...] = (
        count("no.", "number"),
        text("day", "day"),
        text("kind", "kind"),
        text("what", "what"),
    )
    return row_table("annotations", "What changed", columns, rows, fields=("number", "day", "kind", "what"))


MIN_DAYS = 14


def growth_table(board: Board) -> Table:
    """Growth of cost and of tokens from the first half of the days to the second.

    An elasticity below 1: cost grew less than the volume of tokens. Empty with fewer than `MIN_DAYS` days.
    """
    by_day = group([cell for cell in board.days if cell.currency == board.currency], ("day",))
    rows: list[Row] = []
    if len(by_day) >= MIN_DAYS:
        half = len(by_day) // 2
        first, second = (_sum(part) for part in (by_day[:half], by_day[-half:]))
        costs = [cell.cost_nano(with_idle=True) for cell in (first, second)]
        tokens = [cell.tokens("total") for cell in (first, second)]
        if all(costs) and all(tokens):
            cost_growth = Fraction(costs[1] or 0, costs[0] or 1) - 1
            tokens_growth = Fraction(tokens[1], tokens[0]) - 1
            elasticity = rounded(cost_growth / tokens_growth, 2) if tokens_growth else None
            rows.append(
                {
                    "first": f"{by_day[0].period} to {by_day[half - 1].period}",
                    "second": f"{by_day[-half].period} to {by_day[-1].period}",
                    "tokens_growth_per_cent": rounded(tokens_growth * 100, 1),
                    "cost_growth_per_cent": rounded(cost_growth * 100, 1),
                    "per_cent_cost_per_per_cent_tokens": elasticity,
                }
            )
    columns: tuple[Column, ...] = (
        text("first half", "first"),
        text("second half", "second"),
        Column("total tokens, %", lambda row: f"{row['tokens_growth_per_cent']:+}"),
        Column("cost with idle, %", lambda row: f"{row['cost_growth_per_cent']:+}"),
        Column("% cost per % tokens", lambda row: str(row["per_cent_cost_per_per_cent_tokens"])),
    )
    notes = ("Below 1 the fleet absorbs volume: by software, price, or idle time that filled up. See what changed.",)
    fields = ("first", "second", "tokens_growth_per_cent", "cost_growth_per_cent", "per_cent_cost_per_per_cent_tokens")
    return row_table("growth", "How cost grew with tokens", columns, rows, notes if rows else (), fields)


def _sum(cells: Sequence[Cell]) -> Cell:
    total = cells[0]
    for cell in cells[1:]:
        total = total.plus(cell)
    return total


def return_table(board: Board) -> Table:
    """The calculator's assumptions and results."""
    inputs, computed = board.assumptions, roi.compute(board.assumptions)
    rows: list[Row] = [
        {"name": name, "value": Decimal(value), "kind": "assumption", "source": board.assumption_sources.get(name, "")}
        for name, value in inputs._asdict().items()
    ]
    rows += [
        {"name": name, "value": exact(value), "kind": "result", "source": ""}
        for name, value in computed._asdict().items()
    ]
    columns: tuple[Column, ...] = (
        text("what", "name"),
        Column("value", lambda row: str(row["value"])),
        text("from", "source"),
    )
    return row_table("return_on_investment", "Return on investment", columns, rows)


def price_per_gpu_hour(cell: Cell) -> Fraction | None:
    """Mean cost of a GPU-hour, energy included; None where a part of the cost is unknown."""
    cost = cell.cost_nano(with_idle=True)
    gpu_ns = cell.direct.gpu_ns + cell.idle.gpu_ns
    return None if cost is None or not gpu_ns else Fraction(cost * NS_PER_HOUR, gpu_ns * NANO_PER_UNIT)
