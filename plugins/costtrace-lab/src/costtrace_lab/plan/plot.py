"""The plot of a plan: the cost per million tokens of today (measured) and of each scenario (modelled), with ranges."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from costtrace.core.errors import CosttraceError
from costtrace_lab.plan.tables import PlanResult

WITHOUT, WITH = {"color": "0.25"}, {"color": "white", "edgecolor": "black", "hatch": "////"}
"""Dark and hatched, so that they differ in black and white."""
Line = tuple[str, float, float, tuple[float, float] | None]
"""(name, without idle, with idle, range without idle)."""


def draw(path: Path, result: PlanResult) -> None:
    """Write the plot to *path*. Raises: CosttraceError, where it cannot be written."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("Agg")
    # Same input, same bytes; names of models are text and never formulas.
    matplotlib.rcParams.update({"svg.hashsalt": "costtrace", "text.parse_math": False})
    pyplot = import_module("matplotlib.pyplot")
    lines = _lines(result)
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.7 * len(lines)), layout="tight")
    _bars(axes, lines)
    axes.set_xlabel(f"{result.currency} per million {result.basis} tokens")
    figure.suptitle(f"{result.prefix}: {result.group.model} on {result.group.device}")
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise CosttraceError(f"cannot write {path}: {error.strerror}") from error
    finally:
        pyplot.close(figure)


def _lines(result: PlanResult) -> list[Line]:
    cost = result.measured_cost
    lines: list[Line] = [("today (measured)", float(cost), float(cost / result.group.utilisation), None)]
    for scenario in result.scenarios:
        figures = result.figures(scenario)
        interval = None if figures.low is None or figures.high is None else (float(figures.low), float(figures.high))
        lines.append(
            (f"{scenario.name or 'today'} (modelled)", float(figures.best), float(figures.with_idle), interval)
        )
    return lines


def _bars(axes: Any, lines: Sequence[Line]) -> None:
    rows = range(len(lines))
    axes.barh([y - 0.2 for y in rows], [line[1] for line in lines], 0.36, label="without idle", **WITHOUT)
    axes.barh([y + 0.2 for y in rows], [line[2] for line in lines], 0.36, label="with idle", **WITH)
    for y, (_, value, _, interval) in enumerate(lines):
        if interval is not None:
            errors = [[value - interval[0]], [interval[1] - value]]
            label = None if y > 1 else "95 % range, the model's measured error in it"
            axes.errorbar([value], [y - 0.2], xerr=errors, fmt="none", ecolor="0.6", capsize=4, label=label)
    axes.set_yticks(list(rows), [line[0] for line in lines])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.legend(loc="best")
