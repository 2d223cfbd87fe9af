"""costtrace: per-request GPU time, energy and cost, in rows that add up to the meter.

core config                    the words everything else is written in; every setting
capture journal                in the engine's process, and what it writes
sensors attribution pricing    readings and events in; rows, energy and money out
ledger telemetry reports       the bill at rest, as spans and metrics, as tables
agent cli                      the loop that runs it all, and the command line
"""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415 - engines that never ask do not pay for it

    return version("costtrace-core")
