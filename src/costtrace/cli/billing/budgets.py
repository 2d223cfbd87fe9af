"""``costtrace budgets``: where budgets stand, for people, Prometheus and a webhook."""

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click

from costtrace.cli.options import examples, open_store, out, store_option
from costtrace.core.errors import CosttraceError
from costtrace.core.semconv import BUDGET_METRICS
from costtrace.core.units import NANO_PER_UNIT, show_amount
from costtrace.ledger.budgets.budget import HARD, SOFT, BudgetStatus
from costtrace.ledger.budgets.file import load_budgets
from costtrace.ledger.budgets.status import budget_status
from costtrace.reports.output.render import render
from costtrace.reports.output.tables import Column, Row, Table, text

EXIT_EXCEEDED = 1
_TIMEOUT_S = 10


@click.command(
    short_help="What is spent of each budget, and the forecast.",
    epilog=examples(
        "costtrace budgets --file budgets.yaml",
        "costtrace budgets --file budgets.yaml --store clickhouse://costtrace@clickhouse:8123     of all nodes",
        "costtrace budgets --file budgets.yaml --format prometheus > /var/lib/node_exporter/budgets.prom",
        "costtrace budgets --file budgets.yaml --fail-on hard || echo over budget",
    ),
)
@click.option("--file", required=True, type=click.Path(path_type=Path), help="The budgets file (YAML).")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv", "prometheus"]), default="table")
@click.option("--fail-on", type=click.Choice([SOFT, HARD]), help="End with 1 if any budget is spent that far.")
@click.option(
    "--webhook", metavar="URL", help="POST the budgets that are spent to their soft or hard threshold, as JSON."
)
@store_option
def budgets(*, file: Path, form: str, fail_on: str | None, webhook: str | None, home: Path) -> int:
    """Show what is spent of each budget, and the forecast of its period's end with its uncertainty.

    Spent is the cost of requests, as in `costtrace report`, adjustments included; idle time is on no tenant's budget.
    """
    now_ns = time.time_ns()
    with open_store(home) as store:
        statuses = [budget_status(store, budget, now_ns) for budget in load_budgets(file)]
    if form == "prometheus":
        out(prometheus(statuses))
    else:
        out(render([Table("budgets", "Budgets", _COLUMNS, statuses, _exact)], form))
    exceeded = [status for status in statuses if status.state in {SOFT, HARD}]
    if webhook and exceeded:
        _post(webhook, exceeded)
    sys.stdout.flush()
    failing = {HARD} if fail_on == HARD else {SOFT, HARD} if fail_on else set[str]()
    return EXIT_EXCEEDED if any(status.state in failing for status in exceeded) else 0


def _exact(status: BudgetStatus) -> Row:
    budget = status.budget
    return {
        "budget": budget.name,
        "tenant": budget.tenant,
        "model": budget.model,
        "period": _period(status),
        "amount_nano": budget.amount_nano,
        "spent_nano": status.spent_nano,
        "unknown_gpu_ns": status.unknown_ns,
        "forecast_nano": status.forecast_nano,
        "forecast_low_nano": status.low_nano,
        "forecast_high_nano": status.high_nano,
        "currency": budget.currency,
        "state": status.state,
    }


def _period(status: BudgetStatus) -> str:
    return status.budget.period or f"{status.budget.rolling_days} days"


def _money(heading: str, nano: Callable[[BudgetStatus], int | None]) -> Column[BudgetStatus]:
    def show(status: BudgetStatus) -> str:
        value = nano(status)
        return "" if value is None else show_amount(value, status.budget.currency)

    return Column(heading, show)


_COLUMNS: tuple[Column[BudgetStatus], ...] = (
    text("budget", lambda status: status.budget.name),
    text("tenant", lambda status: status.budget.tenant or "all"),
    text("model", lambda status: status.budget.model or "all"),
    text("period", _period),
    _money("budget", lambda status: status.budget.amount_nano),
    _money("spent", lambda status: status.spent_nano),
    _money("forecast", lambda status: status.forecast_nano),
    _money("from", lambda status: status.low_nano),
    _money("to", lambda status: status.high_nano),
    text("state", lambda status: status.state),
)


def prometheus(statuses: list[BudgetStatus]) -> str:
    """The text that a node exporter's textfile collector reads."""
    lines = []
    for metric, field in zip(BUDGET_METRICS, ("amount", "spent", "forecast", "high", "spent_ratio"), strict=True):
        lines += [f"# HELP {metric.prometheus} {metric.brief}", f"# TYPE {metric.prometheus} gauge"]
        for status in statuses:
            budget = status.budget
            value = {
                "amount": budget.amount_nano,
                "spent": status.spent_nano,
                "forecast": status.forecast_nano,
                "high": status.high_nano,
                "spent_ratio": status.spent_nano * NANO_PER_UNIT // budget.amount_nano,
            }[field]
            if value is not None:  # unknown is absent, never 0
                values = (budget.name, budget.tenant or "", budget.model or "", budget.currency)
                names = [attribute.label for attribute in metric.attributes]
                labels = ",".join(f'{name}="{_escaped(each)}"' for name, each in zip(names, values, strict=True))
                lines.append(f"{metric.prometheus}{{{labels}}} {value / NANO_PER_UNIT!r}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _post(url: str, statuses: list[BudgetStatus]) -> None:
    if not url.startswith(("https://", "http://")):
        raise click.UsageError("--webhook takes an http or https address")
    body = json.dumps({"budgets": [_exact(status) for status in statuses]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310 - checked above
            pass
    except (urllib.error.URLError, OSError, ValueError) as error:
        # The address may hold a secret: it is not repeated.
        why = f"{type(error).__name__} {getattr(error, 'reason', '')}".strip()
        raise CosttraceError(f"the webhook did not accept {len(statuses)} budgets: {why}") from error
