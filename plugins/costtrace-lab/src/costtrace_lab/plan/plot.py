"""A picture of a plan: what each scenario costs per million tokens, measured beside modelled, with its range."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from costtrace.core.errors import CosttraceError
from costtrace_lab.plan.tables import Found

WITHOUT, WITH = {"color": "0.25"}, {"color": "white", "edgecolor": "black", "hatch": "////"}
"""Told apart in black and white: dark, and hatched."""
Line = tuple[str, float, float, tuple[float, float] | None]
"""(name, without idle, with idle, range without idle)."""


def draw(path: Path, found: Found) -> None:
    """Write the picture. Raises: CosttraceError."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("Agg")
    # Same input, same bytes; names of models are text and never formulas.
    matplotlib.rcParams.update({"svg.hashsalt": "costtrace", "text.parse_math": False})
    pyplot = import_module("matplotlib.pyplot")
    lines = _lines(found)
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.7 * len(lines)), layout="tight")
    _bars(axes, lines)
    axes.set_xlabel(f"{found.currency} per million {found.basis} tokens")
    figure.suptitle(f"{found.prefix}: {found.fleet.model} on {found.fleet.device}")
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise CosttraceError(f"cannot write {path}: {error.strerror}") from error
    finally:
        pyplot.close(figure)


def _lines(found: Found) -> list[Line]:
    direct = found.measured_cost
    lines: list[Line] = [("today (measured)", float(direct), float(direct / found.fleet.utilisation), None)]
    for one in found.scenarios:
        its = found.figures(one)
        reach = None if its.low is None or its.high is None else (float(its.low), float(its.high))
        lines.append((f"{one.name or 'today'} (modelled)", float(its.best), float(its.with_idle), reach))
    return lines


def _bars(axes: Any, lines: Sequence[Line]) -> None:
    places = range(len(lines))
    axes.barh([y - 0.2 for y in places], [line[1] for line in lines], 0.36, label="without idle", **WITHOUT)
    axes.barh([y + 0.2 for y in places], [line[2] for line in lines], 0.36, label="with idle", **WITH)
    for y, (_, value, _, reach) in enumerate(lines):
        if reach is not None:
            off = [[value - reach[0]], [reach[1] - value]]
            label = None if y > 1 else "95 % range, the model's measured error in it"
            axes.errorbar([value], [y - 0.2], xerr=off, fmt="none", ecolor="0.6", capsize=4, label=label)
    axes.set_yticks(list(places), [line[0] for line in lines])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.legend(loc="best")
