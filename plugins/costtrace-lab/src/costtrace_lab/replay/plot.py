"""The plot of a comparison: each tenant's share by method, and how much single requests differ."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from costtrace.core.errors import CosttraceError
from costtrace_lab.replay.attribute import Bill

SUFFIXES = (".svg", ".png", ".pdf")
MAX_TENANTS = 12


def check(path: Path) -> None:
    """Check before any long work that a plot can be written to *path*. Raises: CosttraceError."""
    if path.suffix not in SUFFIXES:
        raise CosttraceError(f"cannot draw {path}: the name of a plot ends with {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise CosttraceError(f"cannot draw {path}: there is no directory {path.parent}")
    try:
        import_module("matplotlib")
    except ModuleNotFoundError:
        line = "pip install './plugins/costtrace-lab[plots]'"
        raise CosttraceError(f"plots need the Python package matplotlib. In a checkout of costtrace: {line}") from None


def draw(path: Path, bills: Sequence[Bill], title: str) -> None:
    """Write the plot to *path*. Raises: CosttraceError, where it cannot be written."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("Agg")
    # Same input, same bytes; names of tenants are text and never formulas.
    matplotlib.rcParams.update({"svg.hashsalt": "costtrace", "text.parse_math": False})
    figure, (left, right) = import_module("matplotlib.pyplot").subplots(1, 2, figsize=(12, 4.5), layout="tight")
    _shares(left, bills)
    _requests(right, bills)
    figure.suptitle(("SIMULATED: " if bills[0].simulated else "") + title)
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise CosttraceError(f"cannot write {path}: {error.strerror}") from error
    finally:
        import_module("matplotlib.pyplot").close(figure)


def _shares(axes: Any, bills: Sequence[Bill]) -> None:
    first = bills[0]
    lines = sorted(((line.gpu_ns, key) for key, line in first.lines.items() if key[1] == "request"), reverse=True)
    keys = [key for _, key in lines[:MAX_TENANTS]]
    width = 0.8 / len(bills)
    for position, bill in enumerate(bills):
        all_ns = sum(line.gpu_ns for (_, kind), line in bill.lines.items() if kind == "request") or 1
        heights = [100 * (bill.lines[key].gpu_ns if key in bill.lines else 0) / all_ns for key in keys]
        axes.bar([x + position * width for x in range(len(keys))], heights, width, label=bill.method)
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(keys))], [key[0] for key in keys], rotation=30, ha="right")
    axes.set_ylabel("% of the requests' GPU time")
    axes.legend(title="method")


def _requests(axes: Any, bills: Sequence[Bill]) -> None:
    first = bills[0]
    for bill in bills[1:]:
        ratios = sorted(bill.request_ns.get(record, 0) / ns for record, ns in first.request_ns.items() if ns)
        axes.plot(ratios, [100 * (n + 1) / len(ratios) for n in range(len(ratios))], label=bill.method)
    axes.axvline(1.0, color="black", linewidth=0.8, label=first.method)
    axes.set_xscale("log")
    # Plain numbers: the default labels of a logarithmic scale are formulas.
    axes.xaxis.set_major_locator(import_module("matplotlib.ticker").LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(f"a request's GPU time, as a multiple of {first.method}'s")
    axes.set_ylabel("% of requests at or below")
    axes.legend(title="method")
