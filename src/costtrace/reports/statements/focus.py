"""FOCUS 1.4 (FinOps Open Cost and Usage Specification), dataset Cost and Usage: two views of one period. Pure.

    allocation   what the platform pays for its GPUs, split: one origin charge a pool and currency, to tenants and to
                 what nobody takes (null AllocatedResourceId); costs sum to the origin, ratios to 1
    service      what the platform's tenants get: tokens by model and meter, and their shares of idle and overhead

Both hold the same money for each tenant, and name the same `x_StatementId`. Amounts are exact decimals of nano-units.
Wrong when a cost is unknown: such lines cannot be written (FOCUS has no unknown cost) and are counted instead.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder
from costtrace.core.units import NS_PER_HOUR, amount
from costtrace.core.wall_time import EPOCH
from costtrace.reports.output.tables import Row, Value
from costtrace.reports.statements.focus_columns import COLUMNS, blank
from costtrace.reports.statements.settlement import Settlement, SettlementLine, split_phases_nano
from costtrace.reports.usage.summary import REQUESTS

VIEWS = ("allocation", "service")
_RATIO_UNITS = 10**12
"""Ratios have twelve decimals and sum to 1 exactly."""


class Names(NamedTuple):
    """Who bills whom, as FOCUS wants to know it."""

    provider: str = "GPU platform"
    account: str = "gpu-platform"


class Export(NamedTuple):
    """Rows of one view, and what could not be written."""

    rows: list[Row]
    unknown_ns: int
    """Device time whose cost is not known in full: what is known of it is in the rows."""


def export(fleet: Settlement, view: str, names: Names) -> Export:
    """One view of a settled period."""
    priced = [cell for cell in fleet.cells if cell.pot.cost_nano is not None and cell.currency]
    unknown_ns = sum(cell.pot.cost_unknown_ns for cell in fleet.cells)
    return Export(
        _allocation(fleet, priced, names) if view == "allocation" else _service(fleet, priced, names), unknown_ns
    )


def fields() -> list[str]:
    """The columns, in their order."""
    return list(COLUMNS)


def _allocation(fleet: Settlement, cells: Sequence[SettlementLine], names: Names) -> list[Row]:
    origins: dict[tuple[str, str], dict[tuple[str, ...], SettlementLine]] = defaultdict(dict)
    rows: list[Row] = []
    for cell in cells:
        if cell.kind == "difference":
            rows.append(_difference(fleet, cell, names))
            continue
        parts = origins[cell.pool, cell.currency]
        key = (cell.tenant, cell.model, cell.kind, cell.reason)
        parts[key] = parts[key].plus(cell) if key in parts else cell
    for (pool, currency), parts in sorted(origins.items()):
        rows += _split_origin(fleet, pool, currency, list(parts.values()), names)
    return rows


def _split_origin(
    fleet: Settlement, pool: str, currency: str, cells: Sequence[SettlementLine], names: Names
) -> list[Row]:
    nanos = [cell.pot.cost_nano or 0 for cell in cells]
    times = [cell.pot.gpu_ns for cell in cells]
    weights = nanos if any(nanos) else times
    ratios = largest_remainder(_RATIO_UNITS, weights) if any(weights) else [0] * len(cells)
    hours = _nano_hours(times)
    origin = f"{_day(fleet, 0)}/{pool}/{currency}"
    rows: list[Row] = []
    for cell, nano, ratio, nano_hours in zip(cells, nanos, ratios, hours, strict=True):
        own = cell.kind == REQUESTS
        what = f"model/{cell.model}" if own else f"share of {cell.kind}" + (f": {cell.reason}" if cell.reason else "")
        nobody = not own and not cell.tenant
        details = {
            "Elements": [
                {
                    "AllocatedRatio": amount_of_ratio(ratio),
                    "UsageUnit": "Hours",
                    "UsageQuantity": amount(nano_hours),
                }
            ],
            "x_Policy": fleet.policy.name,
            "x_Kind": cell.kind,
        }
        rows.append(
            _row(fleet, cell, nano, names)
            | {
                "AllocatedMethodDetails": _json(details),
                "AllocatedMethodId": f"costtrace/{fleet.policy.name}",
                "AllocatedResourceId": None if nobody else f"tenant/{cell.tenant}/{what}",
                "AllocatedResourceName": None if nobody else cell.tenant,
                "AllocatedTags": None
                if nobody
                else _json({"tenant": cell.tenant, **({"model": cell.model} if own else {})}),
                "ChargeDescription": f"{pool}: {cell.kind}" + (f" ({cell.reason})" if cell.reason else ""),
                "ConsumedQuantity": amount(nano_hours),
                "ConsumedUnit": "Hours",
                "PricingQuantity": amount(nano_hours),
                "PricingUnit": "Hours",
                "ServiceCategory": "Compute",
                "ServiceName": "GPU devices",
                "ServiceSubcategory": "Other (Compute)",
                "ResourceId": pool,
                "ResourceName": pool,
                "ResourceType": "GPU pool",
                "x_OriginChargeId": origin,
                "x_OriginCost": amount(sum(nanos)),
            }
        )
    return rows


def _service(fleet: Settlement, cells: Sequence[SettlementLine], names: Names) -> list[Row]:
    models: dict[tuple[str, ...], SettlementLine] = {}
    rows: list[Row] = []
    for cell in cells:
        if cell.kind == REQUESTS:
            key = (cell.tenant, cell.model, cell.currency)
            models[key] = models[key].plus(cell) if key in models else cell
    for _, cell in sorted(models.items()):
        phases = split_phases_nano(cell)
        assert phases is not None  # priced
        fresh = max(0, cell.input_tokens - cell.cached_tokens)
        meters = (
            ("Input Tokens", fresh, phases[0]),
            ("Cached Input Tokens", cell.cached_tokens, 0),
            ("Output Tokens", cell.output_tokens, phases[1]),
        )
        rows += [_tokens(fleet, cell, meter, count, nano, names) for meter, count, nano in meters if count or nano]
    shares: dict[tuple[str, ...], SettlementLine] = {}
    for cell in cells:
        if cell.kind != REQUESTS and cell.tenant:
            share = (cell.tenant, cell.kind, cell.pool, cell.currency)
            shares[share] = shares[share].plus(cell) if share in shares else cell
    return rows + [_share(fleet, cell, names) for _, cell in sorted(shares.items())]


def _tokens(fleet: Settlement, cell: SettlementLine, meter: str, count: int, nano: int, names: Names) -> Row:
    return _row(fleet, cell, nano, names) | {
        "ChargeDescription": f"{cell.model}: {meter}",
        "ConsumedQuantity": Decimal(count),
        "ConsumedUnit": "Tokens",
        "PricingQuantity": Decimal(count).scaleb(-6),
        "PricingUnit": "1000000 Tokens",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "LLM inference",
        "ServiceSubcategory": "Generative AI",
        "SkuId": f"{cell.model}/{meter}",
        "SkuMeter": meter,
        "ResourceId": cell.model,
        "ResourceName": cell.model,
        "ResourceType": "Model",
    }


def _share(fleet: Settlement, cell: SettlementLine, names: Names) -> Row:
    hours = amount(_nano_hours([cell.pot.gpu_ns])[0])
    return _row(fleet, cell, cell.pot.cost_nano or 0, names) | {
        "ChargeDescription": f"share of {cell.kind} of {cell.pool}, policy {fleet.policy.name}",
        "ConsumedQuantity": hours,
        "ConsumedUnit": "Hours",
        "PricingQuantity": hours,
        "PricingUnit": "Hours",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "LLM inference",
        "ServiceSubcategory": "Generative AI",
        "SkuId": f"{cell.pool}/share of {cell.kind}",
        "SkuMeter": f"Share of {cell.kind}",
        "ResourceId": cell.pool,
        "ResourceName": cell.pool,
        "ResourceType": "GPU pool",
    }


def _difference(fleet: Settlement, cell: SettlementLine, names: Names) -> Row:
    return _row(fleet, cell, cell.pot.cost_nano or 0, names) | {
        "ChargeCategory": "Adjustment",
        "ChargeFrequency": "One-Time",
        "ChargeDescription": "difference between the provider's bill and what was rated",
        "ServiceCategory": "Compute",
        "ServiceName": "GPU devices",
        "ServiceSubcategory": "Other (Compute)",
    }


def _row(fleet: Settlement, cell: SettlementLine, nano: int, names: Names) -> dict[str, Value]:
    """What both views say of every charge."""
    cost = amount(nano)
    begin, end = _day(fleet, 0), _day(fleet, 1)
    tenant = cell.tenant or None
    return blank() | {
        "BilledCost": cost,
        "BillingAccountId": names.account,
        "BillingAccountName": names.account,
        "BillingCurrency": cell.currency,
        "BillingPeriodEnd": end,
        "BillingPeriodStart": begin,
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": end,
        "ChargePeriodStart": begin,
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "HostProviderName": names.provider,
        "InvoiceIssuerName": names.provider,
        "ListCost": cost,
        "ServiceProviderName": names.provider,
        "SubAccountId": tenant,
        "SubAccountName": tenant,
        "x_Kind": cell.kind,
        "x_Model": cell.model or None,
        "x_Policy": fleet.policy.name,
        "x_StatementId": f"{begin[:10]}/{end[:10]}/{cell.tenant}" if cell.tenant else None,
    }


def _day(fleet: Settlement, which: int) -> str:
    """Begin (0) or end (1) of the period, in UTC, as FOCUS writes times."""
    return (EPOCH + timedelta(microseconds=fleet.period[which] // 1_000)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _nano_hours(times: Sequence[int]) -> list[int]:
    """Device-ns as 1e-9 hours that add up to their own total, rounded down."""
    whole = sum(times) * 10**9 // NS_PER_HOUR
    return largest_remainder(whole, times) if any(times) else [0] * len(times)


def amount_of_ratio(ratio: int) -> Decimal:
    """A ratio of the units that sum to 1."""
    return Decimal(ratio).scaleb(-12)


def _json(tree: object) -> str:
    """One line of JSON; decimals keep their digits, or they would not add up."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_json(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_json, tree)) + "]"
    if isinstance(tree, Decimal):
        return f"{tree:f}"
    return json.dumps(tree)
