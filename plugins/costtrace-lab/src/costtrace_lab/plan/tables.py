"""The results of ``costtrace plan`` as tables. Every modelled figure is marked as such, in its title and its row."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from costtrace_board.figures import rounded, significant
from costtrace_board.tables import decimals, exact

from costtrace.reports.output.row_tables import Column, Table, row_table, text
from costtrace.reports.output.tables import Row, Value
from costtrace_lab.plan.figures import EngineGroup, Figures, Run, Scenario, error_of, figures, per_million

LINE = "scenario"


class PlanResult(NamedTuple):
    """Everything that the tables and the plot show."""

    group: EngineGroup
    basis: str
    currency: str
    per_gpu_hour: Fraction
    """Today's price of a GPU-hour, energy included."""
    requests: int
    measured: Run
    today: Run
    scenarios: Sequence[Scenario]
    """The first is today's configuration, modelled."""
    assumptions: Sequence[tuple[str, str, str]]
    """Each (what, value, source)."""
    notes: Sequence[str]

    def figures(self, scenario: Scenario) -> Figures:
        """The costs of a scenario."""
        return figures(scenario, self.measured, self.today, self.group, self.basis)

    @property
    def measured_cost(self) -> Fraction:
        """Measured cost per million tokens, without idle."""
        return per_million(self.per_gpu_hour, self.measured.gpu_ns, self.measured.tokens(self.basis))

    @property
    def prefix(self) -> str:
        """The label at the start of every title."""
        return "MODELLED on a SIMULATED ledger" if self.group.simulated else "MODELLED"


def plan_tables(result: PlanResult) -> list[Table]:
    """The scenarios, the model's error of today's configuration, and the assumptions."""
    return [scenarios_table(result), calibration_table(result), assumptions_table(result)]


def scenarios_table(result: PlanResult) -> Table:
    """Cost per million tokens of today (measured) and of each scenario."""
    measured = _measured_row(result)
    rows = [measured, *(_scenario_row(result, scenario) for scenario in result.scenarios)]
    unit = f"{result.currency} per M {result.basis}"
    columns: tuple[Column, ...] = (
        text("scenario", LINE),
        text("how", "how"),
        decimals(f"{unit}, without idle", "cost_per_million_tokens_without_idle"),
        Column("95 % range", lambda row: _range(row, "without_idle")),
        decimals("with idle", "cost_per_million_tokens_with_idle"),
        Column("95 % range", lambda row: _range(row, "with_idle")),
        Column("to today", _to_today),
        Column("used", lambda row: _percent(row["utilisation"])),
        Column("engines", _engines),
        decimals("tok/s/user", "tokens_per_s_per_user"),
        decimals("mean batch", "mean_batch"),
    )
    served = f"{result.group.model} on {result.group.device}"
    title = f"{result.prefix}: what {served} would cost per million {result.basis} tokens"
    return row_table("plan", title, columns, rows, result.notes)


def _measured_row(result: PlanResult) -> Row:
    cost, used = result.measured_cost, result.group.utilisation
    return {
        LINE: "today",
        "how": "measured",
        "modelled": False,
        **_head(result, result.per_gpu_hour),
        "cost_per_million_tokens_without_idle": exact(cost),
        "modelled_cost_per_million_tokens_without_idle": None,
        "without_idle_low": None,
        "without_idle_high": None,
        "cost_per_million_tokens_with_idle": exact(cost / used),
        "with_idle_low": None,
        "with_idle_high": None,
        "to_today": Decimal(1),
        "utilisation": exact(used),
        "overloaded": False,
        "engines": Decimal(result.group.pools),
        **_service(result.measured),
    }


def _scenario_row(result: PlanResult, scenario: Scenario) -> Row:
    costs = result.figures(scenario)
    return {
        LINE: scenario.name or "today",
        "how": "modelled, corrected" if costs.corrected is not None else "modelled",
        "modelled": True,
        **_head(result, scenario.per_gpu_hour),
        "cost_per_million_tokens_without_idle": exact(costs.best),
        "modelled_cost_per_million_tokens_without_idle": exact(costs.modelled),
        "without_idle_low": exact(costs.low),
        "without_idle_high": exact(costs.high),
        "cost_per_million_tokens_with_idle": exact(costs.with_idle),
        "with_idle_low": exact(costs.with_idle_low),
        "with_idle_high": exact(costs.with_idle_high),
        "to_today": exact(costs.with_idle / (result.measured_cost / result.group.utilisation)),
        "utilisation": exact(costs.utilisation),
        "overloaded": costs.overloaded,
        "engines": exact(scenario.engines),
        **_service(scenario.run),
    }


def _head(result: PlanResult, per_gpu_hour: Fraction) -> dict[str, Value]:
    return {
        "model": result.group.model,
        "token_basis": result.basis,
        "currency": result.currency,
        "per_gpu_hour": exact(per_gpu_hour),
        "simulated": result.group.simulated,
    }


def _service(run: Run) -> dict[str, Value]:
    return {
        "tokens_per_s_per_user": None if run.interactivity is None else Decimal(f"{run.interactivity:.6f}"),
        "latency_s": Decimal(f"{run.latency_s:.6f}"),
        "mean_batch": exact(run.mean_batch),
        "busy": ", ".join(f"{name} {part:.4f}" for name, part in run.busy),
    }


def _range(row: Row, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if not row["modelled"]:
        return ""
    if not isinstance(low, Decimal) or not isinstance(high, Decimal):
        return "unknown"
    return f"{significant(Fraction(low))} to {significant(Fraction(high))}"


def _to_today(row: Row) -> str:
    value = row["to_today"]
    return f"x {significant(Fraction(value))}" if isinstance(value, Decimal) else ""


def _percent(value: Value) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, Decimal) else "unknown"


def _engines(row: Row) -> str:
    value = row["engines"]
    number = significant(Fraction(value)) if isinstance(value, Decimal) else ""
    return f"{number} (too few)" if row["overloaded"] else number.removesuffix(".00")


def calibration_table(result: PlanResult) -> Table:
    """Today's configuration, measured and modelled: the model's own error."""
    measured, today = result.measured, result.today
    tokens = measured.tokens(result.basis)
    unit = f"{result.currency} per million {result.basis} tokens, without idle"
    pairs: list[tuple[str, Fraction | float | None, Fraction | float | None]] = [
        ("device time of the requests, s", Fraction(measured.gpu_ns, 10**9), Fraction(today.gpu_ns, 10**9)),
        (unit, result.measured_cost, per_million(result.per_gpu_hour, today.gpu_ns, tokens)),
        ("mean batch", measured.mean_batch, today.mean_batch),
        ("output tok/s that one user sees, median", measured.interactivity, today.interactivity),
        ("latency of a request, s, median", measured.latency_s, today.latency_s),
    ]
    rows: list[Row] = [
        {
            "what": what,
            "measured": _number(measured_value),
            "modelled": _number(modelled_value),
            "ratio": _number(Fraction(modelled_value) / Fraction(measured_value))
            if measured_value and modelled_value
            else None,
        }
        for what, measured_value, modelled_value in pairs
    ]
    off = 100 * (error_of(measured, today) - 1)
    columns: tuple[Column, ...] = (
        text("what", "what"),
        decimals("measured", "measured"),
        decimals("modelled", "modelled"),
        decimals("modelled / measured", "ratio"),
    )
    notes = (
        f"The model is {rounded(off, 1):+} % off in today's device time. 'modelled, corrected' has that removed;",
        "the ranges hold both the figure with it and the one without, each with its 95 % jackknife interval.",
    )
    title = f"{result.prefix}: today's configuration served again ({result.requests:,} requests)"
    return row_table("calibration", title, columns, rows, notes)


def _number(value: Fraction | float | None) -> Decimal | None:
    return None if value is None else rounded(Fraction(value), 9)


def assumptions_table(result: PlanResult) -> Table:
    """The assumptions behind the figures, with their sources."""
    rows: list[Row] = [{"what": what, "value": value, "from": source} for what, value, source in result.assumptions]
    columns: tuple[Column, ...] = (text("what", "what"), text("value", "value"), text("from", "from"))
    return row_table("assumptions", "What this assumes", columns, rows)
