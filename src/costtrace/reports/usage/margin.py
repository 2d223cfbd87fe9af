"""Cost, price and margin beside each other, for tenants who are billed by an internal price per token."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.units import show_amount
from costtrace.ledger.answers import Ended, Used
from costtrace.pricing.list_prices import ListPrice
from costtrace.reports.output.tables import Column, Row, Table, count, text
from costtrace.reports.usage.summary import whole_sum


class Sold(NamedTuple):
    """What was sold to one tenant of one model: tokens, their cost and their list price."""

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
"""The list price of a model, by its name; None where it has none."""


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
    sold = []
    for key, (inputs, cached, outputs) in sorted(tokens.items()):
        exact_nano = exact[key]
        price_nano = None if exact_nano is None else round(exact_nano)
        sold.append(Sold(key[0], key[1], inputs, cached, outputs, costs.get(key, 0), price_nano))
    return sold


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


def margin_table(sold: Sequence[Sold], currency: str, book: str, period: str) -> Table[Sold]:
    """Tenants and models with cost, price and margin, and their sum."""
    lines = [*sold, _total(sold)] if sold else []

    def money(heading: str, nano: Callable[[Sold], int | None]) -> Column[Sold]:
        return Column(heading, lambda line: show_amount(nano(line), currency))

    columns: list[Column[Sold]] = [
        text("tenant", lambda line: line.tenant),
        text("model", lambda line: line.model),
        count("input tok", lambda line: line.input_tokens),
        count("cached", lambda line: line.cached_tokens),
        count("output tok", lambda line: line.output_tokens),
        money("cost", lambda line: line.cost_nano),
        money("price", lambda line: line.price_nano),
        money("margin", lambda line: line.margin_nano),
    ]
    notes = (
        f"price: the list prices of {book} for the tokens of the requests that ended in the period. cost: what their",
        "device time and energy cost in it, without idle time. margin = price - cost.",
    )

    def exact(line: Sold) -> Row:
        return {**line._asdict(), "margin_nano": line.margin_nano, "currency": currency}

    return Table("price_and_cost", f"Cost, price and margin, {period}", columns, lines, exact, notes)


def _total(sold: Sequence[Sold]) -> Sold:
    return Sold(
        "all requests",
        "",
        sum(line.input_tokens for line in sold),
        sum(line.cached_tokens for line in sold),
        sum(line.output_tokens for line in sold),
        whole_sum(line.cost_nano for line in sold),
        whole_sum(line.price_nano for line in sold),
    )
