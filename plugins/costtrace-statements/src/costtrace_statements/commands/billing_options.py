"""Periods as finance names them, and the options that statements, policies and FOCUS share."""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from costtrace.config.yaml_fields import Fields
from costtrace.config.yaml_file import load_mapping
from costtrace.core.errors import CosttraceError
from costtrace.core.wall_time import named_period, show_time
from costtrace.ledger.answers import Period
from costtrace.ledger.queries import bounds
from costtrace.ledger.reader import Store
from costtrace.ledger.verify.sealed_rows import seals
from costtrace_statements.idle_policies import POLICIES
from costtrace_statements.provider_bill import COST_COLUMNS, Bill, differences, read_bill, with_bill_ties
from costtrace_statements.provider_bill_file import read_focus
from costtrace_statements.query import load
from costtrace_statements.settlement import SHARED_KINDS, IdlePolicy, Quota, Settlement, settle

EXIT_OFF = 1


def billing_period(words: str, zone: tzinfo) -> Period:
    """``2026``, ``2026-Q4``, ``2026-11`` or ``2026-11-23``, in *zone*. Raises: CosttraceError."""
    try:
        return Period(*named_period(words.strip(), zone))
    except (ValueError, OverflowError):
        raise CosttraceError(
            f"cannot read the period {words!r}: use a month (2026-11), a day (2026-11-23), a quarter (2026-Q4), a year"
        ) from None


Function = Callable[..., Any]


def policy_options(function: Function) -> Function:
    """``--policy``, ``--share``, ``--quotas``."""
    for option in (
        click.option(
            "--quotas",
            type=click.Path(path_type=Path, dir_okay=False),
            help="YAML file with the shares of each pool that tenants have reserved (policy `reserved`).",
        ),
        click.option(
            "--share",
            default=",".join(SHARED_KINDS),
            show_default=True,
            help="What the policy hands out: idle, overhead or both. Unobserved time never is.",
        ),
        click.option(
            "--policy",
            type=click.Choice(POLICIES),
            default="separate",
            show_default=True,
            help="Who pays for idle and overhead.",
        ),
    ):
        function = option(function)
    return function


def make_policy(name: str, share: str, quotas: Path | None) -> IdlePolicy:
    """The policy that was asked for. Raises: CosttraceError."""
    kinds = tuple(dict.fromkeys(kind.strip() for kind in share.split(",") if kind.strip()))
    for kind in kinds:
        if kind not in SHARED_KINDS:
            raise CosttraceError(f"--share takes {', '.join(SHARED_KINDS)}, with commas between: not {kind!r}")
    reserved = read_quotas(quotas) if quotas else ()
    if name == "reserved" and not reserved:
        raise CosttraceError(
            "the policy `reserved` needs --quotas FILE, a YAML file such as\n"
            "  quotas:\n    - {tenant: acme, share: 0.25}\n    - {tenant: blue, share: 0.5, pool: NVIDIA H100}"
        )
    return IdlePolicy(name, kinds, reserved)


def read_quotas(path: Path) -> tuple[Quota, ...]:
    """Reserved shares of pools. Raises: CosttraceError."""
    fields = Fields(load_mapping(path, CosttraceError, "quotas"), str(path), ("quotas",))
    if not fields.has("quotas"):
        raise CosttraceError(f"{path}: a list is needed under `quotas`")
    quotas = tuple(map(_quota, fields.entries("quotas", Quota._fields)))
    for pool in {quota.pool for quota in quotas}:
        whole = sum((quota.share for quota in quotas if quota.pool in {"", pool}), Decimal(0))
        if whole > 1:
            raise CosttraceError(f"{path}: {whole} of {pool or 'every pool'} is reserved: shares add up to 1 at most")
    return quotas


def _quota(fields: Fields) -> Quota:
    remedy = "{}: it needs `tenant` and `share`, and may have `pool`"
    share = fields.number("share", remedy.format("share: 0.25"))
    if share > 1:
        raise fields.wrong("share", "must be from 0 to 1")
    return Quota(fields.text("tenant", remedy.format("tenant: acme")), share, fields.text("pool"))


def bill_options(function: Function) -> Function:
    """``--bill``, ``--bill-column``, ``--bill-where``."""
    for option in (
        click.option(
            "--bill-where", multiple=True, metavar="COLUMN=VALUE", help="Take only such rows of the bill. Repeatable."
        ),
        click.option(
            "--bill-column", type=click.Choice(COST_COLUMNS), default=COST_COLUMNS[0], show_default=True,
            help="Which cost of the bill is the origin.",
        ),
        click.option(
            "--bill",
            multiple=True,
            type=click.Path(path_type=Path, dir_okay=False),
            help="The provider's bill, FOCUS as CSV, CSV.gz or Parquet: the difference becomes a line. Repeatable.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def read_bills(paths: Sequence[Path], period: Period, column: str, where: Sequence[str]) -> Bill | None:
    """All files as one bill; None where there are none. Raises: CosttraceError."""
    if not paths:
        return None
    conditions = []
    for words in where:
        name, equals, value = words.partition("=")
        if not equals:
            raise CosttraceError(f"--bill-where takes COLUMN=VALUE, not {words!r}")
        conditions.append((name, value))
    return read_bill((row for path in paths for row in read_focus(path)), period, column, conditions)


def settle_period(
    store: Store, period: Period, zone: tzinfo, policy: IdlePolicy, bill: Bill | None = None
) -> Settlement:
    """Settle a period; with a bill, down to its last nano-unit. Raises: CosttraceError."""
    closing = _closing(store, period)
    inputs = load(store, period, zone, slots=policy.name == "peak")
    if bill is None:
        return settle(inputs, policy)._replace(closing=closing)
    return with_bill_ties(settle(inputs, policy, differences(inputs, bill)), bill)._replace(closing=closing)


def _closing(store: Store, period: Period) -> str:
    """Whether the figures can still change; '' where that is not known, as in a fleet store: it has no seals."""
    if period.until_ns > time.time_ns():
        return "the period is not over: these are the figures so far"
    chain = seals(store)
    closings = [seal for seal in chain if seal.kind == "close" and seal.until_ns >= period.until_ns]
    return f"closed with {closings[0].period}: hash {closings[0].hash}" if closings else ""


def warn_if_empty(store: Store, settlement: Settlement, words: str) -> None:
    """Warn on standard error where a period has no row at all: its name is likely mistyped."""
    if settlement.lines:
        return
    whole = bounds(store)
    if whole is None:
        extent = "it is empty"
    else:
        extent = f"it has {show_time(whole.since_ns, settlement.zone)} to {show_time(whole.until_ns, settlement.zone)}"
    sys.stderr.write(f"costtrace: the ledger has nothing of {words}: {extent}\n")
