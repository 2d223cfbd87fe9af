"""FOCUS 1.4 (FinOps Open Cost and Usage Specification), dataset Cost and Usage: two views of one period. Pure.

    allocation   what the platform pays for its GPUs, split: one origin charge a pool and currency, to tenants and to
                 what nobody takes (null AllocatedResourceId); costs sum to the origin, ratios to 1
    service      what the platform's tenants get: tokens by model and meter, and their shares of idle and overhead

Both hold the same money for each tenant, and name the same `x_StatementId`. Amounts are exact decimals of nano-units;
`x_StatementCost` is a charge's part of what the statement rounds to the currency's smallest unit.
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
from costtrace.reports.usage.summary import REQUESTS
from costtrace_statements.focus_columns import COLUMNS, blank
from costtrace_statements.settlement import Settlement, SettlementLine

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


def export(settlement: Settlement, view: str, names: Names) -> Export:
    """One view of a settled period."""
    priced = [line for line in settlement.lines if line.pot.cost_nano is not None and line.currency]
    unknown_ns = sum(line.pot.cost_unknown_ns for line in settlement.lines)
    return Export(
        _allocation(settlement, priced, names) if view == "allocation" else _service(settlement, priced, names),
        unknown_ns,
    )


def fields() -> list[str]:
    """The columns, in their order."""
    return list(COLUMNS)


def _allocation(settlement: Settlement, lines: Sequence[SettlementLine], names: Names) -> list[Row]:
    origins: dict[tuple[str, str], dict[tuple[str, ...], SettlementLine]] = defaultdict(dict)
    rows: list[Row] = []
    for line in lines:
        if line.kind == "difference":
            rows.append(_difference(settlement, line, names))
            continue
        parts = origins[line.pool, line.currency]
        key = (line.tenant, line.model, line.kind, line.reason)
        parts[key] = parts[key].plus(line) if key in parts else line
    for (pool, currency), parts in sorted(origins.items()):
        rows += _split_origin(settlement, pool, currency, list(parts.values()), names)
    return rows


def _split_origin(
    settlement: Settlement, pool: str, currency: str, lines: Sequence[SettlementLine], names: Names
) -> list[Row]:
    nanos = [line.pot.cost_nano or 0 for line in lines]
    times = [line.pot.gpu_ns for line in lines]
    choices = nanos, [-nano for nano in nanos], times, [abs(nano) for nano in nanos]  # corrections can cost less than 0
    weights = next((each for each in choices if any(each) and min(each) >= 0), None)
    ratios = largest_remainder(_RATIO_UNITS, weights) if weights else [0] * len(lines)
    hours = _nano_hours(times)
    origin = f"{_day(settlement, 0)}/{pool}/{currency}"
    rows: list[Row] = []
    for line, nano, ratio, nano_hours in zip(lines, nanos, ratios, hours, strict=True):
        of_requests = line.kind == REQUESTS
        what = (
            f"model/{line.model}"
            if of_requests
            else f"share of {line.kind}" + (f": {line.reason}" if line.reason else "")
        )
        nobody = not of_requests and not line.tenant
        details = {
            "Elements": [
                {"AllocatedRatio": amount_of_ratio(ratio), "UsageUnit": "Hours", "UsageQuantity": amount(nano_hours)}
            ],
            "x_Policy": settlement.policy.name,
            "x_Kind": line.kind,
        }
        rows.append(
            _row(settlement, line, nano, names)
            | {
                "AllocatedMethodDetails": _json(details),
                "AllocatedMethodId": f"costtrace/{settlement.policy.name}",
                "AllocatedResourceId": None if nobody else f"tenant/{line.tenant}/{what}",
                "AllocatedResourceName": None if nobody else line.tenant,
                "AllocatedTags": None
                if nobody
                else _json({"tenant": line.tenant, **({"model": line.model} if of_requests else {})}),
                "ChargeDescription": f"{pool}: {line.kind}" + (f" ({line.reason})" if line.reason else ""),
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


def _service(settlement: Settlement, lines: Sequence[SettlementLine], names: Names) -> list[Row]:
    models: dict[tuple[str, ...], SettlementLine] = {}
    rows: list[Row] = []
    for line in lines:
        if line.kind == REQUESTS:
            key = (line.tenant, line.model, line.currency)
            models[key] = models[key].plus(line) if key in models else line
    for _, line in sorted(models.items()):
        prefill_nano, decode_nano = _by_phase(line, line.pot.cost_nano or 0)
        prefill_cents, decode_cents = _by_phase(line, line.cost_cents or 0)
        fresh = max(0, line.input_tokens - line.cached_tokens)
        for meter, count, nano, cents in (
            ("Input Tokens", fresh, prefill_nano, prefill_cents),
            ("Cached Input Tokens", line.cached_tokens, 0, 0),
            ("Output Tokens", line.output_tokens, decode_nano, decode_cents),
        ):
            if count or nano or cents:
                rows.append(_tokens(settlement, line._replace(cost_cents=cents), meter, count, nano, names))
    shares: dict[tuple[str, ...], SettlementLine] = {}
    for line in lines:
        if line.kind != REQUESTS and line.tenant:
            share = (line.tenant, line.kind, line.pool, line.currency)
            shares[share] = shares[share].plus(line) if share in shares else line
    return rows + [_share(settlement, line, names) for _, line in sorted(shares.items())]


def _by_phase(line: SettlementLine, whole: int) -> tuple[int, int]:
    """An amount of a line as (prefill, decode), by device time."""
    if not line.prefill_ns + line.decode_ns:
        return 0, whole
    prefill, decode = largest_remainder(whole, (line.prefill_ns, line.decode_ns))
    return prefill, decode


def _tokens(settlement: Settlement, line: SettlementLine, meter: str, count: int, nano: int, names: Names) -> Row:
    return _row(settlement, line, nano, names) | {
        "ChargeDescription": f"{line.model}: {meter}",
        "ConsumedQuantity": Decimal(count),
        "ConsumedUnit": "Tokens",
        "PricingQuantity": Decimal(count).scaleb(-6),
        "PricingUnit": "1000000 Tokens",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "LLM inference",
        "ServiceSubcategory": "Generative AI",
        "SkuId": f"{line.model}/{meter}",
        "SkuMeter": meter,
        "ResourceId": line.model,
        "ResourceName": line.model,
        "ResourceType": "Model",
    }


def _share(settlement: Settlement, line: SettlementLine, names: Names) -> Row:
    hours = amount(_nano_hours([line.pot.gpu_ns])[0])
    return _row(settlement, line, line.pot.cost_nano or 0, names) | {
        "ChargeDescription": f"share of {line.kind} of {line.pool}, policy {settlement.policy.name}",
        "ConsumedQuantity": hours,
        "ConsumedUnit": "Hours",
        "PricingQuantity": hours,
        "PricingUnit": "Hours",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "LLM inference",
        "ServiceSubcategory": "Generative AI",
        "SkuId": f"{line.pool}/share of {line.kind}",
        "SkuMeter": f"Share of {line.kind}",
        "ResourceId": line.pool,
        "ResourceName": line.pool,
        "ResourceType": "GPU pool",
    }


def _difference(settlement: Settlement, line: SettlementLine, names: Names) -> Row:
    return _row(settlement, line, line.pot.cost_nano or 0, names) | {
        "ChargeCategory": "Adjustment",
        "ChargeFrequency": "One-Time",
        "ChargeDescription": "difference between the provider's bill and what was rated",
        "ServiceCategory": "Compute",
        "ServiceName": "GPU devices",
        "ServiceSubcategory": "Other (Compute)",
    }


def _row(settlement: Settlement, line: SettlementLine, nano: int, names: Names) -> dict[str, Value]:
    """What both views say of every charge."""
    cost = amount(nano)
    begin, end = _day(settlement, 0), _day(settlement, 1)
    tenant = line.tenant or None
    return blank() | {
        "BilledCost": cost,
        "BillingAccountId": names.account,
        "BillingAccountName": names.account,
        "BillingCurrency": line.currency,
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
        "x_Kind": line.kind,
        "x_Model": line.model or None,
        "x_Policy": settlement.policy.name,
        "x_StatementCost": line.rounded,
        "x_StatementId": f"{begin[:10]}/{end[:10]}/{line.tenant}" if line.tenant else None,
    }


def _day(settlement: Settlement, which: int) -> str:
    """Begin (0) or end (1) of the period, in UTC, as FOCUS writes times."""
    return (EPOCH + timedelta(microseconds=settlement.period[which] // 1_000)).strftime("%Y-%m-%dT%H:%M:%SZ")


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
