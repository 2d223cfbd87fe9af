"""Cost, price and margin beside each other, for tenants who are billed by an internal price per token."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.units import show_amount
from costtrace.ledger.answers import Ended, Used
from costtrace.pricing.list_prices import ListPrice
from costtrace.reports.output.tables import Column, Row, Table, count, text


class Sold(NamedTuple):
    """One tenant and model."""

    tenant: str
    model: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_nano: int | None
    """What it cost, as far as all of it is known in the book's currency; None: not known."""
    price_nano: int | None
    """What the list price makes of its tokens; None: the model had no list price for some of them."""

    @property
    def margin_nano(self) -> int | None:
        """Price less cost; None where either is unknown."""
        if self.cost_nano is None or self.price_nano is None:
            return None
        return self.price_nano - self.cost_nano


Find = Callable[[str], ListPrice | None]


def price(pieces: Iterable[tuple[Find, Iterable[Ended]]], used: Iterable[Used], currency: str) -> list[Sold]:
    """Price the tokens of *pieces* of a period (keys: tenant, model), within each of which one list price holds.

    The price is exact over all pieces and rounded once, half to even.
    """
    tokens: dict[tuple[str, ...], list[int]] = {}
    exact: dict[tuple[str, ...], Fraction | None] = {}
    for find, rows in pieces:
        for row in rows:
            tenant, model = row.keys
            sums = tokens.setdefault(row.keys, [0, 0, 0])
            amounts = (row.input_tokens, row.cached_tokens, row.output_tokens)
            for place, amount in enumerate(amounts):
                sums[place] += amount
            listed, so_far = find(model), exact.setdefault(row.keys, Fraction(0))
            exact[tenant, model] = None if listed is None or so_far is None else so_far + listed.exact(*amounts)
    costs = _costs(used, currency)
    found = []
    for key, (inputs, cached, outputs) in sorted(tokens.items()):
        due = exact[key]
        price_nano = None if due is None else round(due)
        found.append(Sold(key[0], key[1], inputs, cached, outputs, costs.get(key, 0), price_nano))
    return found


def _costs(used: Iterable[Used], currency: str) -> Mapping[tuple[str, ...], int | None]:
    costs: defaultdict[tuple[str, ...], int | None] = defaultdict(int)
    for row in used:
        if row.kind != "request":
            continue
        so_far = costs[row.keys]
        unknown = row.device_nano is None or row.energy_nano is None or row.currency != currency
        costs[row.keys] = (
            None if unknown or so_far is None else so_far + (row.device_nano or 0) + (row.energy_nano or 0)
        )
    return costs


def margin_table(sold: Sequence[Sold], currency: str, book: str, period: str) -> Table:
    """Tenants and models with cost, price and margin, and their sum."""
    rows: list[Row] = [_row(line, currency) for line in sold]
    if sold:
        rows.append(_row(_total(sold), currency) | {"tenant": "all requests"})
    columns = [
        text("tenant", "tenant"),
        text("model", "model"),
        count("input tok", "input_tokens"),
        count("cached", "cached_tokens"),
        count("output tok", "output_tokens"),
        *(_money(name) for name in ("cost", "price", "margin")),
    ]
    notes = (
        f"price: the list prices of {book} for the tokens of the requests that ended in the period. cost: what their",
        "device time and energy cost in it, without idle time. margin = price - cost.",
    )
    return Table("price_and_cost", f"Cost, price and margin, {period}", columns, rows, notes)


def _total(sold: Sequence[Sold]) -> Sold:
    def add(name: str) -> int | None:
        values = [getattr(line, name) for line in sold]
        return None if None in values else sum(values)

    inputs, cached, outputs = (sum(getattr(line, name) for line in sold) for name in Sold._fields[2:5])
    return Sold("", "", inputs, cached, outputs, add("cost_nano"), add("price_nano"))


def _row(line: Sold, currency: str) -> dict[str, str | int | None]:
    return {**line._asdict(), "margin_nano": line.margin_nano, "currency": currency}


def _money(name: str) -> Column:
    def show(row: Row) -> str:
        value = row[f"{name}_nano"]
        return show_amount(value if isinstance(value, int) else None, str(row["currency"]))

    return Column(name, show)
