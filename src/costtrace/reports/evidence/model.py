"""What the step models have learned: coefficients, how well they fit, and how much of the bill they made."""

from collections.abc import Sequence
from datetime import tzinfo

from costtrace.core.wall_time import show_time
from costtrace.ledger.answers import Fit
from costtrace.reports.output.tables import Column, Row, Table, Value, count, text

PPM = 1_000_000
AS_PER_US = 10**12
POOR_PPM = 250_000
"""Beyond this mean error a model's proportions deserve a look."""
COEFFICIENTS = (
    ("launch", "launch_as", "us a step"),
    ("weights", "weights_as", "us a step"),
    ("sequence", "sequence_as", "us each"),
    ("token", "token_as", "us each"),
    ("KV token", "context_as", "us each"),
    ("attention", "attention_as", "us a unit"),
    ("encoder token", "encoder_as", "us each"),
    ("prompts", "prompt_as", "us a step with any"),
    ("decodes", "decode_as", "us a step with any"),
)


def as_row(fit: Fit) -> Row:
    """One engine with all that is known of its model."""
    row: dict[str, Value] = {
        "engine_id": fit.row.engine_id,
        "model": fit.model,
        "device_name": fit.device_name,
        "started_wall_ns": fit.started_wall_ns,
        "simulated": fit.simulated,
    }
    return row | {name: getattr(fit.row, name) for name in fit.row.__struct_fields__[1:]} | {"basis": basis(fit)}


def basis(fit: Fit) -> str:
    """Where the coefficients are from, in words."""
    row = fit.row
    if row.fitted:
        return "fitted"
    device = f"{row.device}" if row.device_known else f"{row.device} (not this device's figures)"
    return f"prior, {device}" if row.shape_known else "nothing is known of the model: shared by tokens"


def tables(fits: Sequence[Fit], zone: tzinfo) -> list[Table]:
    """How each engine's steps are shared, and the coefficients."""
    rows = [as_row(fit) for fit in fits]
    fields = tuple(rows[0]) if rows else ()
    columns = [
        text("engine", "engine_id"),
        Column("since", lambda row: show_time(_int(row, "started_wall_ns"), zone), right=False),
        text("model", "model"),
        text("device", "device_name"),
        text("method", "method"),
        text("coefficients", "basis"),
        *(_share(name, f"{name}_error_ppm") for name in ("roofline", "affine", "tokens", "equal")),
        _share("coverage", "coverage_ppm"),
        count("steps", "observations"),
        count("outliers", "outliers"),
        count("changes", "changes"),
        count("moves", "moves"),
    ]
    notes = [
        "roofline, affine, tokens, equal: mean error of each method's own prediction of a step's time, newest steps.",
        "It moves time between the requests of one step; it cannot make or lose any. steps: those that were looked at.",
        "coverage: the part of all step time that a fitted model shared.",
    ]
    return [
        Table("step_models", "Step models", columns, rows, notes, fields),
        Table("coefficients", "Coefficients, in microseconds", _coefficient_columns(), rows, view=True),
    ]


def _coefficient_columns() -> list[Column]:
    def column(name: str, key: str, unit: str) -> Column:
        return Column(f"{name} ({unit})", lambda row: f"{_int(row, key) / AS_PER_US:,.6g}")

    return [
        text("engine", "engine_id"),
        *(column(*which) for which in COEFFICIENTS),
        count("knee (tokens)", "knee_tokens"),
        Column("experts", lambda row: f"{_int(row, 'expert_ppm') / 10_000:.0f} %"),
    ]


def _share(heading: str, key: str) -> Column:
    def show(row: Row) -> str:
        value = row[key]
        return f"{value / 10_000:.1f} %" if isinstance(value, int) else "-"

    return Column(heading, show)


def _int(row: Row, key: str) -> int:
    value = row[key]
    assert isinstance(value, int)
    return value
