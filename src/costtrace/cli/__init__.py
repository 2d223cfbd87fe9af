"""The command line: ``costtrace`` and ``python -m costtrace``, and the doctor.

Comes in: what people ask. Goes out: reports, and errors of one clear line. Each command is a module of its own, in the
group under which `costtrace --help` shows it; other distributions add theirs by the entry points `costtrace.commands`.

May import: core, config, journal, attribution, capture, pricing, sensors, ledger, telemetry, reports, agent.
"""

import sys


def main() -> None:
    """Run the command line and exit: 0 done, 1 `verify` found something, 2 an error that the message explains."""
    try:
        from costtrace.cli.app import run  # noqa: PLC0415 - an engine's environment may have no click
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "costtrace":
            raise
        sys.stderr.write(
            f"costtrace: the command line needs the Python package {error.name!r}. The agent and the reports "
            "need it. In a checkout of costtrace: pip install '.[agent]'\n"
        )
        sys.exit(2)
    sys.exit(run())
