"""What the step models have learned: coefficients, how well they fit, and how much of the bill they made."""

from collections.abc import Callable, Sequence
from datetime import tzinfo

from costtrace.core.wall_time import show_time
from costtrace.ledger.answers import Fit
from costtrace.reports.output.tables import Column, Row, Table, count, text

AS_PER_US = 10**12
POOR_PPM = 250_000
"""A mean error beyond which the shares within a step are rough."""


def basis(fit: Fit) -> str:
    """Where the coefficients are from, in words."""
    row = fit.row
    if row.fitted:
        return "fitted"
    device = f"{row.device}" if row.device_known else f"{row.device} (not this device's figures)"
    return f"prior, {device}" if row.shape_known else "nothing is known of the model: shared by tokens"


def tables(fits: Sequence[Fit], zone: tzinfo) -> list[Table[Fit]]:
    """How each engine's steps are shared, and the coefficients."""
    columns: list[Column[Fit]] = [
        text("engine", lambda fit: fit.row.engine_id),
        text("since", lambda fit: show_time(fit.started_wall_ns, zone)),
        text("model", lambda fit: fit.model),
        text("device", lambda fit: fit.device_name),
        text("method", lambda fit: fit.row.method),
        text("coefficients", basis),
        _share("roofline", lambda fit: fit.row.roofline_error_ppm),
        _share("affine", lambda fit: fit.row.affine_error_ppm),
        _share("tokens", lambda fit: fit.row.tokens_error_ppm),
        _share("equal", lambda fit: fit.row.equal_error_ppm),
        _share("coverage", lambda fit: fit.row.coverage_ppm),
        count("steps", lambda fit: fit.row.observations),
        count("outliers", lambda fit: fit.row.outliers),
        count("changes", lambda fit: fit.row.changes),
        count("moves", lambda fit: fit.row.moves),
    ]
    notes = [
        "roofline, affine, tokens, equal: mean error of each method's own prediction of a step's time, newest steps.",
        "It moves time between the requests of one step; it cannot make or lose any. steps: those that were looked at.",
        "coverage: the part of all step time that a fitted model shared.",
    ]
    fields = tuple(exact(fits[0])) if fits else ()
    title = "Coefficients, in microseconds"
    return [
        Table("step_models", "Step models", columns, fits, exact, notes, fields),
        Table("coefficients", title, _coefficient_columns(), fits, exact, view=True),
    ]


def exact(fit: Fit) -> Row:
    """One engine with all that is known of its model."""
    return {
        "engine_id": fit.row.engine_id,
        "model": fit.model,
        "device_name": fit.device_name,
        "started_wall_ns": fit.started_wall_ns,
        "simulated": fit.simulated,
        **{name: getattr(fit.row, name) for name in fit.row.__struct_fields__[1:]},
        "basis": basis(fit),
    }


def _coefficient_columns() -> list[Column[Fit]]:
    def coefficient(heading: str, attoseconds: Callable[[Fit], int]) -> Column[Fit]:
        return Column(heading, lambda fit: f"{attoseconds(fit) / AS_PER_US:,.6g}")

    return [
        text("engine", lambda fit: fit.row.engine_id),
        coefficient("launch (us a step)", lambda fit: fit.row.launch_as),
        coefficient("weights (us a step)", lambda fit: fit.row.weights_as),
        coefficient("sequence (us each)", lambda fit: fit.row.sequence_as),
        coefficient("token (us each)", lambda fit: fit.row.token_as),
        coefficient("KV token (us each)", lambda fit: fit.row.context_as),
        coefficient("attention (us a unit)", lambda fit: fit.row.attention_as),
        coefficient("encoder token (us each)", lambda fit: fit.row.encoder_as),
        coefficient("prompts (us a step with any)", lambda fit: fit.row.prompt_as),
        coefficient("decodes (us a step with any)", lambda fit: fit.row.decode_as),
        count("knee (tokens)", lambda fit: fit.row.knee_tokens),
        Column("experts", lambda fit: f"{fit.row.expert_ppm / 10_000:.0f} %"),
    ]


def _share(heading: str, ppm: Callable[[Fit], int | None]) -> Column[Fit]:
    def show(fit: Fit) -> str:
        value = ppm(fit)
        return "-" if value is None else f"{value / 10_000:.1f} %"

    return Column(heading, show)
