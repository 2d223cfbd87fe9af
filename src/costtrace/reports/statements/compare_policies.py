"""One period under several policies, side by side. Pure."""

from collections.abc import Mapping

from costtrace.reports.output.tables import Column, Row, Table, Value, text
from costtrace.reports.statements.settlement import Settlement
from costtrace.reports.statements.statement import name_period, name_rest, used_table
from costtrace.reports.statements.statement_columns import shown_cents


def compare(fleets: Mapping[str, Settlement], base: str) -> list[Row]:
    """One row for each tenant, rest and currency: its cost under each policy, exact and in cents."""
    keys: dict[tuple[int, str, str], None] = {}
    nanos: dict[tuple[str, tuple[int, str, str]], int] = {}
    cents: dict[tuple[str, tuple[int, str, str]], int] = {}
    for policy, fleet in fleets.items():
        for cell in fleet.cells:
            named = [(0, cell.tenant)] if cell.tenant else [(1, name_rest(cell))]
            for order, name in (*named, (2, "total")):
                key = (order, name, cell.currency)
                keys[key] = None
                if cell.pot.cost_nano is not None and cell.cost_cents is not None:
                    nanos[policy, key] = nanos.get((policy, key), 0) + cell.pot.cost_nano
                    cents[policy, key] = cents.get((policy, key), 0) + cell.cost_cents
    rows: list[Row] = []
    for key in sorted(keys):
        if all((policy, key) not in nanos for policy in fleets):
            continue  # its cost is unknown under every policy
        row: dict[str, Value] = {"what": key[1], "currency": key[2], "compared_with": base}
        for policy in fleets:
            row[f"{policy}_cost_nano"] = nanos.get((policy, key), 0)
            row[f"{policy}_cost_cents"] = cents.get((policy, key), 0)
        rows.append(row)
    return rows


def whatif_tables(rows: list[Row], fleet: Settlement) -> list[Table]:
    """The comparison, and where the device time went (the same under every policy)."""
    policies = [name.removesuffix("_cost_cents") for name in (rows[0] if rows else ()) if name.endswith("_cost_cents")]
    base = str(rows[0]["compared_with"]) if rows else ""

    def column(policy: str) -> Column:
        def show(row: Row) -> str:
            cost, other = row[f"{policy}_cost_cents"], row[f"{base}_cost_cents"]
            shown = shown_cents(cost, row["currency"])
            if policy == base or not isinstance(cost, int) or not isinstance(other, int):
                return shown
            return f"{shown} ({shown_cents(cost - other, '')})"

        return Column(policy, show)

    note = f"In brackets: the difference to `{base}`. Every column adds up to the same total."
    title = f"Cost under each policy, {name_period(fleet)}"
    return [Table("policies", title, [text("", "what"), *map(column, policies)], rows, (note,)), used_table(fleet)]
