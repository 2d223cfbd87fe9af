"""What ``costtrace plan`` found, as tables. Every modelled figure says so, in its title and on its row."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from costtrace_board.figures import rounded, significant
from costtrace_board.tables import exact, shown

from costtrace.reports.output.row_tables import Column, Table, row_table, text
from costtrace.reports.output.tables import Row, Value
from costtrace_lab.plan.figures import EngineGroup, Figures, Run, Scenario, error_of, figures, per_million

LINE = "scenario"


class Found(NamedTuple):
    """Everything that was computed."""

    fleet: EngineGroup
    basis: str
    currency: str
    per_gpu_hour: Fraction
    """Today's, energy included."""
    requests: int
    measured: Run
    today: Run
    scenarios: Sequence[Scenario]
    """The first is today's configuration, modelled."""
    assumptions: Sequence[tuple[str, str, str]]
    """(what, value, from)."""
    notes: Sequence[str]

    def figures(self, one: Scenario) -> Figures:
        """What a scenario comes to."""
        return figures(one, self.measured, self.today, self.fleet, self.basis)

    @property
    def measured_cost(self) -> Fraction:
        """Per million tokens, without idle."""
        return per_million(self.per_gpu_hour, self.measured.gpu_ns, self.measured.tokens(self.basis))

    @property
    def prefix(self) -> str:
        """What stands before every title."""
        return "MODELLED on a SIMULATED ledger" if self.fleet.simulated else "MODELLED"


def plan_tables(found: Found) -> list[Table]:
    """The scenarios, how well the model tells today, and what all of it assumes."""
    return [scenarios_table(found), calibration_table(found), assumptions_table(found)]


def scenarios_table(found: Found) -> Table:
    """Cost per million tokens of each scenario, beside what was measured today."""
    measured = _measured_row(found)
    rows = [measured, *(_scenario_row(found, one) for one in found.scenarios)]
    unit = f"{found.currency} per M {found.basis}"
    columns: tuple[Column, ...] = (
        text("scenario", LINE),
        text("how", "how"),
        shown("cost_per_million_tokens_without_idle", f"{unit}, without idle"),
        Column("95 % range", lambda row: _range(row, "without_idle")),
        shown("cost_per_million_tokens_with_idle", "with idle"),
        Column("95 % range", lambda row: _range(row, "with_idle")),
        Column("to today", _to_today),
        Column("used", lambda row: _percent(row["utilisation"])),
        Column("engines", _engines),
        shown("tokens_per_s_per_user", "tok/s/user"),
        shown("mean_batch", "mean batch"),
    )
    served = f"{found.fleet.model} on {found.fleet.device}"
    title = f"{found.prefix}: what {served} would cost per million {found.basis} tokens"
    return row_table("plan", title, columns, rows, found.notes)


def _measured_row(found: Found) -> Row:
    direct, used = found.measured_cost, found.fleet.utilisation
    return {
        LINE: "today",
        "how": "measured",
        "modelled": False,
        **_head(found, found.per_gpu_hour),
        "cost_per_million_tokens_without_idle": exact(direct),
        "modelled_cost_per_million_tokens_without_idle": None,
        "without_idle_low": None,
        "without_idle_high": None,
        "cost_per_million_tokens_with_idle": exact(direct / used),
        "with_idle_low": None,
        "with_idle_high": None,
        "to_today": Decimal(1),
        "utilisation": exact(used),
        "overloaded": False,
        "engines": Decimal(found.fleet.pools),
        **_service(found.measured),
    }


def _scenario_row(found: Found, one: Scenario) -> Row:
    its = found.figures(one)
    return {
        LINE: one.name or "today",
        "how": "modelled, corrected" if its.corrected is not None else "modelled",
        "modelled": True,
        **_head(found, one.per_gpu_hour),
        "cost_per_million_tokens_without_idle": exact(its.best),
        "modelled_cost_per_million_tokens_without_idle": exact(its.modelled),
        "without_idle_low": exact(its.low),
        "without_idle_high": exact(its.high),
        "cost_per_million_tokens_with_idle": exact(its.with_idle),
        "with_idle_low": exact(its.with_idle_low),
        "with_idle_high": exact(its.with_idle_high),
        "to_today": exact(its.with_idle / (found.measured_cost / found.fleet.utilisation)),
        "utilisation": exact(its.utilisation),
        "overloaded": its.overloaded,
        "engines": exact(one.engines),
        **_service(one.run),
    }


def _head(found: Found, per_gpu_hour: Fraction) -> dict[str, Value]:
    return {
        "model": found.fleet.model,
        "token_basis": found.basis,
        "currency": found.currency,
        "per_gpu_hour": exact(per_gpu_hour),
        "simulated": found.fleet.simulated,
    }


def _service(run: Run) -> dict[str, Value]:
    return {
        "tokens_per_s_per_user": None if run.interactivity is None else Decimal(f"{run.interactivity:.6f}"),
        "latency_s": Decimal(f"{run.latency_s:.6f}"),
        "mean_batch": exact(run.mean_batch),
        "busy": ", ".join(f"{name} {part:.4f}" for name, part in run.busy),
    }


def _range(row: Row, which: str) -> str:
    low, high = row[f"{which}_low"], row[f"{which}_high"]
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


def calibration_table(found: Found) -> Table:
    """Today's configuration, measured and modelled: the model's own error."""
    measured, today = found.measured, found.today
    tokens = measured.tokens(found.basis)
    unit = f"{found.currency} per million {found.basis} tokens, without idle"
    pairs: list[tuple[str, Fraction | float | None, Fraction | float | None]] = [
        ("device time of the requests, s", Fraction(measured.gpu_ns, 10**9), Fraction(today.gpu_ns, 10**9)),
        (unit, found.measured_cost, per_million(found.per_gpu_hour, today.gpu_ns, tokens)),
        ("mean batch", measured.mean_batch, today.mean_batch),
        ("output tok/s that one user sees, median", measured.interactivity, today.interactivity),
        ("latency of a request, s, median", measured.latency_s, today.latency_s),
    ]
    rows: list[Row] = [
        {
            "what": what,
            "measured": _number(one),
            "modelled": _number(other),
            "ratio": _number(Fraction(other) / Fraction(one)) if one and other else None,
        }
        for what, one, other in pairs
    ]
    off = 100 * (error_of(measured, today) - 1)
    columns: tuple[Column, ...] = (
        text("what", "what"),
        shown("measured", "measured"),
        shown("modelled", "modelled"),
        shown("ratio", "modelled / measured"),
    )
    notes = (
        f"The model is {rounded(off, 1):+} % off in today's device time. 'modelled, corrected' has that taken out; the",
        "ranges hold both the figure with it and the one without, each with its 95 % jackknife interval.",
    )
    title = f"{found.prefix}: today's configuration served again ({found.requests:,} requests)"
    return row_table("calibration", title, columns, rows, notes)


def _number(value: Fraction | float | None) -> Decimal | None:
    return None if value is None else rounded(Fraction(value), 9)


def assumptions_table(found: Found) -> Table:
    """What stands behind the figures."""
    rows: list[Row] = [{"what": what, "value": value, "from": source} for what, value, source in found.assumptions]
    columns = (text("what", "what"), text("value", "value"), text("from", "from"))
    return row_table("assumptions", "What this assumes", columns, rows)
